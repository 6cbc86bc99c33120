// The CPU kernels of pair_relu and relu_dot behind torch's dispatcher, on the stable ABI.
#include <tuple>

#include "common/bind.h"
#include "common/cpu/host.h"
#include "ops/pair_layers/cpu.h"

namespace {

using mi::DType;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The type of what is of the size of the pairs.
DType stored_type(const Tensor& pairs, const char* operation) {
  const DType dtype = mi::element_type(pairs, operation);
  STD_TORCH_CHECK(dtype != DType::f16 && pairs.dim() == 2, operation,
                  ": want a float64, float32 or bfloat16 matrix of pairs");
  return dtype;
}

Tensor pair_relu(Tensor a, Tensor b, bool narrow) {
  const DType dtype = stored_type(a, "pair_relu");
  STD_TORCH_CHECK(dtype == DType::f32 || (dtype == DType::f64 && !narrow), "pair_relu: want float32, or float64");
  STD_TORCH_CHECK(b.dim() == 2 && b.size(1) == a.size(1), "pair_relu: want b of the width of a");
  mi::PairRelu args;
  args.n = a.size(0);
  args.m = b.size(0);
  args.h = a.size(1);
  const Tensor rows = torch::stable::contiguous(a);
  const Tensor cols = mi::beside(a, b, a.scalar_type(), args.m * args.h, "pair_relu", "b");
  Tensor out = torch::stable::new_empty(a, {args.n * args.m, args.h}, narrow ? ScalarType::BFloat16 : a.scalar_type());
  args.a = rows.const_data_ptr();
  args.b = cols.const_data_ptr();
  args.out = out.mutable_data_ptr();
  MI_BEST_LEVEL(pair_relu)(narrow ? DType::bf16 : dtype, args);
  return out;
}

std::tuple<Tensor, Tensor> pair_relu_backward(Tensor grad, Tensor out, int64_t rows) {
  const DType dtype = stored_type(out, "pair_relu_backward");
  STD_TORCH_CHECK(rows > 0 && out.size(0) % rows == 0, "pair_relu_backward: want a multiple of rows pairs");
  mi::PairReluBackward args;
  args.n = rows;
  args.m = out.size(0) / rows;
  args.h = out.size(1);
  const Tensor pairs = torch::stable::contiguous(out);
  const Tensor arrived = mi::beside(out, grad, out.scalar_type(), out.size(0) * args.h, "pair_relu_backward", "grad");
  Tensor da = torch::stable::new_empty(out, {args.n, args.h}, mi::accumulation_type(dtype));
  Tensor db = torch::stable::new_empty(out, {args.m, args.h}, mi::accumulation_type(dtype));
  args.grad = arrived.const_data_ptr();
  args.out = pairs.const_data_ptr();
  args.da = da.mutable_data_ptr();
  args.db = db.mutable_data_ptr();
  MI_BEST_LEVEL(pair_relu_backward)(dtype, args);
  return {da, db};
}

Tensor relu_dot(Tensor z, Tensor weight) {
  const DType dtype = stored_type(z, "relu_dot");
  mi::ReluDot args;
  args.rows = z.size(0);
  args.h = z.size(1);
  const Tensor pairs = torch::stable::contiguous(z);
  const Tensor factors = mi::beside(z, weight, mi::accumulation_type(dtype), args.h, "relu_dot", "weight");
  Tensor out = torch::stable::new_empty(z, {args.rows}, mi::accumulation_type(dtype));
  args.z = pairs.const_data_ptr();
  args.weight = factors.const_data_ptr();
  args.out = out.mutable_data_ptr();
  MI_BEST_LEVEL(relu_dot)(dtype, args);
  return out;
}

std::tuple<Tensor, Tensor, Tensor> relu_dot_backward(Tensor grad, Tensor z, Tensor weight) {
  const DType dtype = stored_type(z, "relu_dot_backward");
  const ScalarType wide = mi::accumulation_type(dtype);
  mi::ReluDotBackward args;
  args.rows = z.size(0);
  args.h = z.size(1);
  const Tensor pairs = torch::stable::contiguous(z);
  const Tensor arrived = mi::beside(z, grad, wide, args.rows, "relu_dot_backward", "grad");
  const Tensor factors = mi::beside(z, weight, wide, args.h, "relu_dot_backward", "weight");
  Tensor dz = torch::stable::new_empty(z, {args.rows, args.h}, z.scalar_type());
  Tensor dweight = torch::stable::new_empty(z, {args.h}, wide);
  Tensor sums = torch::stable::new_empty(z, {args.h}, wide);
  args.grad = arrived.const_data_ptr();
  args.z = pairs.const_data_ptr();
  args.weight = factors.const_data_ptr();
  args.dz = dz.mutable_data_ptr();
  args.dweight = dweight.mutable_data_ptr();
  args.sums = sums.mutable_data_ptr();
  MI_BEST_LEVEL(relu_dot_backward)(dtype, args);
  return {dz, dweight, sums};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mi_estimators, CPU, m) {
  m.impl("pair_relu", TORCH_BOX(&pair_relu));
  m.impl("pair_relu_backward", TORCH_BOX(&pair_relu_backward));
  m.impl("relu_dot", TORCH_BOX(&relu_dot));
  m.impl("relu_dot_backward", TORCH_BOX(&relu_dot_backward));
}
