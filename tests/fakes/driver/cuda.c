// libcuda.so.1 as far as FFmpeg goes before it encodes: devices, contexts and the names of errors.
#include <stddef.h>

int cuInit(unsigned flags) { return CU_INIT; }
int cuDeviceGetCount(int *count) { *count = GPU_COUNT; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return index < GPU_COUNT ? 0 : 101; }
int cuDeviceGetName(char *name, int size, int device) { __builtin_snprintf(name, size, "%s", GPUS[device].name); return 0; }
int cuDeviceComputeCapability(int *major, int *minor, int device) { *major = 8, *minor = 9; return 0; }

// A context is the device's number and one: nothing looks into it.
static int context(void **made, int device) { *made = (void *)(size_t)(device + 1); return GPUS[device].cu_context; }
int cuCtxCreate_v2(void **made, unsigned flags, int device) { return context(made, device); }
int cuDevicePrimaryCtxRetain(void **made, int device) { return context(made, device); }

int cuGetErrorName(int error, const char **name) {
    *name = error == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : error == 100 ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_UNKNOWN";
    return 0;
}
int cuGetErrorString(int error, const char **text) {
    *text = error == 2 ? "out of memory" : error == 100 ? "no CUDA-capable device is detected" : "unknown error";
    return 0;
}

// What FFmpeg 5.1 or 9.0 insists on finding and does not call before it encodes or decodes.
#define UNUSED(name) int name(void) { return 0; }
UNUSED(cuArray3DCreate_v2) UNUSED(cuArrayCreate_v2) UNUSED(cuArrayDestroy) UNUSED(cuCtxDestroy_v2)
UNUSED(cuCtxGetCurrent) UNUSED(cuCtxGetDevice) UNUSED(cuCtxPopCurrent_v2) UNUSED(cuCtxPushCurrent_v2)
UNUSED(cuCtxSetLimit) UNUSED(cuCtxSynchronize) UNUSED(cuDeviceGetAttribute) UNUSED(cuDeviceGetPCIBusId)
UNUSED(cuDeviceGetByPCIBusId) UNUSED(cuDeviceGetUuid) UNUSED(cuDevicePrimaryCtxGetState)
UNUSED(cuDevicePrimaryCtxRelease) UNUSED(cuDevicePrimaryCtxReset) UNUSED(cuDevicePrimaryCtxSetFlags)
UNUSED(cuDriverGetVersion) UNUSED(cuEGLStreamConsumerDisconnect) UNUSED(cuEGLStreamProducerConnect)
UNUSED(cuEGLStreamProducerDisconnect) UNUSED(cuEGLStreamProducerPresentFrame) UNUSED(cuEGLStreamProducerReturnFrame)
UNUSED(cuEventCreate) UNUSED(cuEventDestroy_v2) UNUSED(cuEventQuery) UNUSED(cuEventRecord)
UNUSED(cuEventSynchronize) UNUSED(cuGLGetDevices_v2) UNUSED(cuGraphicsGLRegisterImage)
UNUSED(cuGraphicsMapResources) UNUSED(cuGraphicsResourceGetMappedPointer_v2)
UNUSED(cuGraphicsSubResourceGetMappedArray) UNUSED(cuGraphicsUnmapResources) UNUSED(cuGraphicsUnregisterResource)
UNUSED(cuLaunchKernel) UNUSED(cuLinkAddData) UNUSED(cuLinkComplete) UNUSED(cuLinkCreate) UNUSED(cuLinkDestroy)
UNUSED(cuMemAllocManaged) UNUSED(cuMemAllocPitch_v2) UNUSED(cuMemAlloc_v2) UNUSED(cuMemFree_v2)
UNUSED(cuMemFreeHost) UNUSED(cuMemHostAlloc) UNUSED(cuMemcpy) UNUSED(cuMemcpy2DAsync_v2) UNUSED(cuMemcpy2D_v2)
UNUSED(cuMemcpyAsync) UNUSED(cuMemcpyDtoDAsync_v2) UNUSED(cuMemcpyDtoD_v2) UNUSED(cuMemcpyDtoHAsync_v2)
UNUSED(cuMemcpyDtoH_v2) UNUSED(cuMemcpyHtoDAsync_v2) UNUSED(cuMemcpyHtoD_v2) UNUSED(cuMemsetD8Async)
UNUSED(cuModuleGetFunction) UNUSED(cuModuleGetGlobal) UNUSED(cuModuleLoadData) UNUSED(cuModuleUnload)
UNUSED(cuStreamAddCallback) UNUSED(cuStreamCreate) UNUSED(cuStreamDestroy_v2) UNUSED(cuStreamQuery)
UNUSED(cuStreamSynchronize) UNUSED(cuStreamWaitEvent) UNUSED(cuTexObjectCreate) UNUSED(cuTexObjectDestroy)
UNUSED(cuArray3DGetDescriptor_v2) UNUSED(cuArrayGetPlane) UNUSED(cuCtxGetStreamPriorityRange)
UNUSED(cuDestroyExternalMemory) UNUSED(cuDestroyExternalSemaphore) UNUSED(cuDeviceGetLuid)
UNUSED(cuDeviceGetUuid_v2) UNUSED(cuExternalMemoryGetMappedBuffer) UNUSED(cuExternalMemoryGetMappedMipmappedArray)
UNUSED(cuImportExternalMemory) UNUSED(cuImportExternalSemaphore) UNUSED(cuLaunchHostFunc) UNUSED(cuMemAllocAsync)
UNUSED(cuMemFreeAsync) UNUSED(cuMemsetD16Async) UNUSED(cuMemsetD2D16Async) UNUSED(cuMemsetD2D32Async)
UNUSED(cuMemsetD2D8Async) UNUSED(cuMemsetD32Async) UNUSED(cuMipmappedArrayDestroy) UNUSED(cuMipmappedArrayGetLevel)
UNUSED(cuSignalExternalSemaphoresAsync) UNUSED(cuStreamCreateWithPriority) UNUSED(cuWaitExternalSemaphoresAsync)
