// out[r][c] = silu(g) · u   with   g = y[r][c] + d[r][c],   u = y[r][I + c] + d[r][I + c],   silu(v) = v / (1 + e^-v)
//
// The gated activation of the MLP. y holds gate and up side by side, d what the adapters add to them (or null); d is put
// back to zero.
//
// Layouts. y, d: [rows][2·I]; out: [rows][I]; 16-bit, dense, I a multiple of 8.
// Grid: one thread for 8 elements of out, 256 a block, over rows · I / 8 of them.
//
// Bound by: latency at decode, the bytes of y and out at prefill.
#include "primitives.cuh"

#ifndef ELEMENT
#define ELEMENT Bf16
#endif

struct Arguments {
  const uint4* y;
  uint4* delta;  // or null
  uint4* out;
  u32 rows;
  u32 vectors;  // I / 8
};

DEVICE float silu(float v) { return v / (1.f + exponential(-v)); }
DEVICE u32 gated(u32 gate, u32 up, u32 gate_delta, u32 up_delta) {
  float low = silu(ELEMENT::low(gate) + ELEMENT::low(gate_delta)) * (ELEMENT::low(up) + ELEMENT::low(up_delta));
  float high = silu(ELEMENT::high(gate) + ELEMENT::high(gate_delta)) * (ELEMENT::high(up) + ELEMENT::high(up_delta));
  return ELEMENT::pack(low, high);
}

KERNEL void __launch_bounds__(256) silu_mul(const GRID_CONSTANT Arguments args) {
  dependents_trigger();
  dependency_wait();
  const u64 index = u64(block_index()) * 256 + thread_index();
  const u32 row = (u32)(index / args.vectors), column = (u32)(index % args.vectors);
  if (row >= args.rows) return;
  const u64 gate_at = u64(row) * 2 * args.vectors + column, up_at = gate_at + args.vectors;
  uint4 gate = args.y[gate_at], up = args.y[up_at];
  uint4 gate_delta = make_uint4(0, 0, 0, 0), up_delta = gate_delta;
  if (args.delta) {
    gate_delta = args.delta[gate_at], up_delta = args.delta[up_at];
    args.delta[gate_at] = args.delta[up_at] = make_uint4(0, 0, 0, 0);
  }
  args.out[index] = make_uint4(gated(gate.x, up.x, gate_delta.x, up_delta.x), gated(gate.y, up.y, gate_delta.y, up_delta.y),
                               gated(gate.z, up.z, gate_delta.z, up_delta.z), gated(gate.w, up.w, gate_delta.w, up_delta.w));
}
