// Element types, as a binding names them to a kernel.
#pragma once

#include <cstdint>

namespace mi {

enum class DType : int32_t { f64 = 0, f32 = 1, bf16 = 2, f16 = 3 };

}  // namespace mi
