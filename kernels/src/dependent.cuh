// Programmatic dependent launch, where the architecture has it (sm_90 on; CUDA C++ programming guide, section
// 10.2.10): a kernel that is launched so may begin before the one in front of it has ended. Both do nothing in
// an ordinary launch.

// Waits until the kernels in front have ended and what they wrote is seen. Before it a kernel reads nothing that
// work in flight may write, and writes nothing.
__device__ __forceinline__ void await_earlier() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" : : : "memory");
#endif
}

// Once every block has come here or ended, the kernel behind may begin.
__device__ __forceinline__ void let_later_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" : : : "memory");
#endif
}
