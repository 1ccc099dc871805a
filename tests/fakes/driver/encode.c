// libnvidia-encode.so.1 up to the opening of a session.
#include <stddef.h>
#include <stdint.h>

int NvEncodeAPIGetMaxSupportedVersion(uint32_t *version) { *version = NVENC_API; return 0; }

struct opening { uint32_t version, device_type; void *device; };

// Opening a session is the first that FFmpeg calls. Where that goes well, it asks for the codecs, and hears of none.
static int answer(struct opening *asked) {
    static int opened;
    if (opened++)
        return 8;
    return GPUS[(size_t)asked->device - 1].nvenc_open;
}

struct functions { uint32_t version, reserved; void *function[36]; };

int NvEncodeAPICreateInstance(struct functions *list) {
    for (int i = 0; i < 36; i++)
        list->function[i] = (void *)answer;
    return 0;
}
