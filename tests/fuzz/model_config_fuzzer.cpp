// config.json of a model, of either family, and what stands beside it: refused with a message, or a shape within the
// bounds. The first byte says which file it is.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

#include "base/json_place.h"
#include "engine/model/encoder_config.h"
#include "engine/model/model_config.h"
#include "engine/model/shape_bounds.h"
#include "engine/model/weights.h"

namespace {

constexpr const char* kEncoder =
    R"({"architectures": ["BertModel"], "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "vocab_size": 9, "max_position_embeddings": 16})";
constexpr const char* kModules =
    R"([{"path": "", "type": "sentence_transformers.models.Transformer"}, {"path": "1_Pooling", "type": "x.Pooling"}])";

void check(const base::ModelShape& shape) {
    const bool is_good = shape.layers >= 1 && shape.layers <= engine::kLayersMax && shape.heads_kv >= 1 &&
                         shape.heads_q % shape.heads_kv == 0 && shape.head_dim >= 2 && shape.head_dim % 2 == 0 &&
                         std::isfinite(static_cast<float>(shape.rope_theta)) &&
                         static_cast<float>(shape.rms_norm_eps) > 0;
    if (!is_good) { std::abort(); }
    if (shape.layers <= 64) { static_cast<void>(engine::plan_packing(shape, engine::WeightFormat::f32)); }
}

void read_encoder(engine::EncoderFiles files) {
    if (const auto shape = engine::parse_encoder_config(files); shape && shape->transformer.head_dim == 0) {
        std::abort();
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) { return 0; }
    const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
    switch (data[0] % 6) {
        case 0:
            if (const auto shape = engine::parse_model_config(text)) { check(*shape); }
            static_cast<void>(engine::model_config_warnings(text));
            break;
        case 1:
            read_encoder({.config = text, .modules = {}, .pooling = {}, .sentences = {}, .prompts = {}});
            break;
        case 2:
            static_cast<void>(engine::pooling_folder(text));
            read_encoder({.config = kEncoder, .modules = text, .pooling = "{}", .sentences = {}, .prompts = {}});
            break;
        case 3:
            read_encoder({.config = kEncoder, .modules = kModules, .pooling = text, .sentences = {}, .prompts = {}});
            break;
        case 4:
            read_encoder({.config = kEncoder, .modules = {}, .pooling = {}, .sentences = text, .prompts = text});
            break;
        default:  // places in texts that are no JSON
            static_cast<void>(base::describe_json_error(text, size / 2));
            static_cast<void>(base::find_json_duplicate(text, "a.b"));
            if (const auto place = base::find_json_field(text, "a.b"); place && *place >= text.size()) { std::abort(); }
            break;
    }
    return 0;
}
