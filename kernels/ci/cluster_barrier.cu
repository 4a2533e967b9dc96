// Does synccheck judge a barrier in a cluster of 16 blocks rightly? The plainest use that there is, for a cluster of any size:
//   nvcc -gencode=arch=compute_90a,code=sm_90a -o cluster_barrier cluster_barrier.cu
//   compute-sanitizer --tool synccheck ./cluster_barrier BLOCKS MODE
// MODE alone: a block initialises its barrier, meets its own threads, arrives, waits; no block touches another's memory.
// MODE store: every block also sends 16 bytes to the next block of its cluster, whose barrier counts them, as the LoRA kernels
// do. Each value that arrives is compared; the exit code is 1 if one is wrong, 2 for an error of CUDA.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cuda_runtime.h>

__device__ unsigned address_of(void* p) { return (unsigned)__cvta_generic_to_shared(p); }

template <bool STORE>
__global__ void once(unsigned* wrong) {
  __shared__ alignas(16) float box[4];
  __shared__ alignas(8) unsigned long long barrier;
  unsigned rank, size;
  asm volatile("mov.u32 %0, %%cluster_ctarank; mov.u32 %1, %%cluster_nctarank;" : "=r"(rank), "=r"(size));
  if (threadIdx.x == 0) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1; fence.mbarrier_init.release.cluster;" ::"r"(address_of(&barrier)) : "memory");
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address_of(&barrier)), "r"(STORE ? 16 : 0) : "memory");
  }
  __syncthreads();
  asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
  if (STORE && threadIdx.x == 0)
    asm volatile(
        "{.reg .b32 to, bar; mapa.shared::cluster.u32 to, %0, %2; mapa.shared::cluster.u32 bar, %1, %2; "
        "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [to], {%3, %3, %3, %3}, [bar];}" ::"r"(address_of(box)),
        "r"(address_of(&barrier)), "r"((rank + 1) % size), "f"((float)blockIdx.x) : "memory");
  asm volatile("{.reg .pred done; again%=: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], 0; @!done bra again%=;}" ::"r"(
                   address_of(&barrier)) : "memory");
  if (STORE && threadIdx.x < 4 && box[threadIdx.x] != (float)(blockIdx.x - rank + (rank + size - 1) % size)) atomicAdd(wrong, 1);
  asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
}

static void check(cudaError_t code, const char* what) {
  if (code == cudaSuccess) return;
  printf("%s: %s\n", what, cudaGetErrorString(code));
  exit(2);
}

int main(int count, char** words) {
  const unsigned blocks = count > 1 ? atoi(words[1]) : 16, launches = 40;
  const bool store = count > 2 && strcmp(words[2], "store") == 0;
  auto kernel = store ? once<true> : once<false>;
  unsigned *wrong, found = 0;
  check(cudaMalloc(&wrong, 4), "allocating");
  check(cudaMemset(wrong, 0, 4), "clearing");
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), "allowing large clusters");
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {blocks, 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(128);
  config.blockDim = dim3(256);
  config.attrs = &cluster;
  config.numAttrs = 1;
  for (unsigned n = 0; n < launches; ++n) check(cudaLaunchKernelEx(&config, kernel, wrong), "launching");
  check(cudaDeviceSynchronize(), "running");
  check(cudaMemcpy(&found, wrong, 4, cudaMemcpyDeviceToHost), "reading");
  printf("clusters of %u, %s: %u launches, %u wrong values\n", blocks, store ? "store" : "alone", launches, found);
  return found > 0;
}
