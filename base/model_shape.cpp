#include "base/model_shape.h"

namespace base {

std::uint64_t ModelShape::parameters() const {
    const std::uint64_t q_columns = 1ull * heads_q * head_dim;
    const std::uint64_t kv_columns = 1ull * heads_kv * head_dim;
    const std::uint64_t attention = hidden * (q_columns + 2 * kv_columns) + q_columns * hidden;
    const std::uint64_t mlp = 3ull * hidden * intermediate;
    const std::uint64_t embeddings = (tied_embeddings ? 1ull : 2ull) * vocabulary * hidden;
    return layers * (attention + mlp) + embeddings;
}

}  // namespace base
