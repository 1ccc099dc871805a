// libnvidia-ml.so.1: what nvidia-ml-py asks for the agent.
#include <stddef.h>

int nvmlInitWithFlags(unsigned flags) { return NVML_INIT; }
int nvmlInit_v2(void) { return NVML_INIT; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int error) { return "an error"; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { __builtin_snprintf(text, size, "%s", DRIVER); return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = GPU_COUNT; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **made) {
    *made = (void *)(size_t)(index + 1);
    return index < GPU_COUNT ? GPUS[index].nvml : 2;
}

#define GPU GPUS[(size_t)device - 1]
int nvmlDeviceGetName(void *device, char *text, unsigned size) { __builtin_snprintf(text, size, "%s", GPU.name); return 0; }
int nvmlDeviceGetUUID(void *device, char *text, unsigned size) { __builtin_snprintf(text, size, "%s", GPU.uuid); return 0; }

struct memory { unsigned long long total, free, used; };
int nvmlDeviceGetMemoryInfo(void *device, struct memory *found) {
    *found = (struct memory){24ULL << 30, 24ULL << 30, 0};
    return 0;
}
