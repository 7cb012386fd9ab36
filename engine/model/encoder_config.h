#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/model_shape.h"
#include "base/result.h"
#include "engine/kernels/encoder_operators.h"

namespace engine {

/// Which of the states of a text's tokens its vector is made of. first: that of [CLS]. mean: of all of them.
enum class SentencePooling : std::uint32_t { first, mean };

/// What a sentence encoder of the BERT family looks like.
struct EncoderShape {
    /// heads_kv is heads_q; context_tokens: of the longest text, special tokens counted; the fields of rotary angles,
    /// RMS norms and heads of decoders keep their defaults.
    base::ModelShape transformer;
    std::uint32_t positions = 0;    // rows of the table of positions
    std::uint32_t token_types = 0;  // rows of the table of token types, of which the first is used
    double layer_norm_eps = 1e-12;
    Gelu gelu = Gelu::exact;
    SentencePooling pooling = SentencePooling::mean;
    bool normalize = false;  // vectors have length 1

    bool operator==(const EncoderShape&) const = default;
};

/// Whether config.json's `architectures[0]` is one that read_encoder_config() takes.
bool is_encoder(std::string_view architecture);

/// `architectures[0]` of a folder's config.json; empty for a GGUF file, of which there are no encoders here.
/// Error: not_found, permission_denied; invalid_argument for a config.json that is none.
base::Result<std::string> read_architecture(const std::string& model_dir);

/// The files of a folder that say what its encoder computes; absent: not there.
struct EncoderFiles {
    std::string config;                         // config.json
    std::optional<std::string> modules = {};    // modules.json: the steps from text to vector
    std::optional<std::string> pooling = {};    // config.json of the folder that the step of pooling names
    std::optional<std::string> sentences = {};  // sentence_bert_config.json: the longest text
    std::optional<std::string> prompts = {};    // config_sentence_transformers.json
};

/// Without modules.json: the mean, not normalised, as sentence-transformers takes a plain BertModel.
/// Error: invalid_argument for a field that is missing or makes no sense, unimplemented for a step, or a field, that
/// asks for something we cannot compute; the message names file and field.
base::Result<EncoderShape> parse_encoder_config(const EncoderFiles& files);

/// The folder that the step of pooling in a modules.json names; empty: it has none. Error: invalid_argument for a path
/// that leads out of the model's folder; as parse_encoder_config() of the same file.
base::Result<std::string> pooling_folder(std::string_view modules);

/// parse_encoder_config() of the files in `model_dir`. Error: also not_found, permission_denied.
base::Result<EncoderShape> read_encoder_config(const std::string& model_dir);

}  // namespace engine
