#include "text/tokenizer.h"

#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/gguf_model.h"
#include "text/detokenizer.h"
#include "text/gguf_text.h"
#include "text/shim_call.h"
#include "text/text_process.h"
#include "text/tokenizer_files.h"
#include "text/tokenizer_parts.h"

namespace text {

Tokenizer::Tokenizer(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

Tokenizer::~Tokenizer() {
    sluice_tokenizer_free(parts_->handle);
}

base::Result<std::shared_ptr<const Tokenizer>> Tokenizer::load(const std::filesystem::path& path,
                                                               const TokenizerOptions& options) {
    if (base::is_gguf(path)) {
        const auto model = base::GgufModel::open(path, base::GgufModel::Parts::first);
        if (!model) { return base::pass_on(model); }
        const auto vocabulary = gguf_vocabulary(*model);
        if (!vocabulary) { return base::pass_on(vocabulary, path.string()); }
        return make(path, options, [&](Parts& parts, std::string& message) {
            if (parts.process) { return parts.process->load_gguf(*vocabulary, message); }
            ShimBuffer out;
            const std::int32_t code = sluice_tokenizer_load_gguf(&*vocabulary, &parts.handle, out.out());
            message = out.view();
            return code;
        });
    }
    const auto files = find_tokenizer_files(path, options.pattern, options.file_bytes_max);
    if (!files) { return base::pass_on(files); }
    return make(files->path, options, [&](Parts& parts, std::string& message) {
        if (parts.process) {
            return parts.process->load_tokenizer(files->kind, files->first, files->second, files->options_json,
                                                 message);
        }
        ShimBuffer out;
        const std::int32_t code =
            sluice_tokenizer_load(files->kind, shim_bytes(files->first), shim_bytes(files->second),
                                  shim_bytes(files->options_json), &parts.handle, out.out());
        message = out.view();
        return code;
    });
}

template <class Load>
base::Result<std::shared_ptr<const Tokenizer>> Tokenizer::make(const std::filesystem::path& path,
                                                               const TokenizerOptions& options, const Load& load) {
    auto parts = std::make_unique<Parts>();
    parts->process = options.process;
    std::string message;
    if (const std::int32_t code = load(*parts, message); code != SLUICE_OK) {
        base::Error error = shim_error(code, message);
        return base::fail(error.code, path.string() + ": " + error.message);
    }
    if (parts->process) {
        parts->table = parts->process->table();
    } else {
        sluice_tokenizer_table(parts->handle, &parts->table);
    }
    parts->text_bytes_max = options.text_bytes_max;
    return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(parts)));
}

namespace {

/// A tokenizer that fails on a text has met one that its library cannot deal with (a run of ten million spaces, say).
tl::unexpected<base::Error> encode_error(std::int32_t code, std::string_view message) {
    base::Error error = shim_error(code, message);
    if (code == SLUICE_PANICKED) {
        return base::fail(base::ErrorCode::invalid_argument, "the tokenizer of this model cannot encode this text");
    }
    error.message = (code == SLUICE_EXHAUSTED ? "the text cannot be encoded: " : "") + error.message;
    return tl::unexpected<base::Error>(std::move(error));
}

}  // namespace

base::Result<std::vector<base::TokenId>> Tokenizer::encode(std::string_view utf8, const EncodeOptions& options) const {
    if (utf8.size() > parts_->text_bytes_max) {
        return base::fail(base::ErrorCode::resource_exhausted,
                          "a text of " + std::to_string(utf8.size()) + " bytes; at most " +
                              std::to_string(parts_->text_bytes_max) + " are encoded");
    }
    if (options.tokens_max > 0) {
        if (auto fits = check_length(utf8.size(), options.tokens_max); !fits) { return base::pass_on(fits); }
    }
    std::uint32_t flags = 0;
    if (options.add_special) { flags |= SLUICE_ADD_SPECIAL; }
    if (options.parse_special) { flags |= SLUICE_PARSE_SPECIAL; }
    std::string answer;
    ShimBuffer out;
    std::int32_t code = SLUICE_OK;
    if (parts_->process) {
        code = parts_->process->encode(utf8, options.text_starts, flags, options.tokens_max, answer);
    } else {
        code = sluice_tokenizer_encode(parts_->handle, shim_bytes(utf8), options.text_starts.data(),
                                       options.text_starts.size(), flags, out.out());
    }
    const std::string_view bytes = parts_->process ? std::string_view(answer) : out.view();
    if (code != SLUICE_OK) { return encode_error(code, bytes); }
    std::vector<base::TokenId> ids(bytes.size() / sizeof(base::TokenId));
    if (!ids.empty()) { std::memcpy(ids.data(), bytes.data(), ids.size() * sizeof(base::TokenId)); }
    if (options.tokens_max > 0 && ids.size() > options.tokens_max) {
        return base::fail(base::ErrorCode::resource_exhausted, "the text has " + std::to_string(ids.size()) +
                                                                   " tokens; at most " +
                                                                   std::to_string(options.tokens_max) + " are taken");
    }
    return ids;
}

base::Result<void> Tokenizer::check_length(std::size_t bytes, std::uint64_t tokens_max) const {
    const std::uint64_t proven = parts_->table.text_bytes_per_token;
    const std::uint64_t longest = proven > 0 ? proven : kUnprovenBytesPerToken;
    if (bytes / longest <= tokens_max) { return {}; }
    const std::string why = proven > 0 ? "no token of this model stands for more than " + std::to_string(longest)
                                       : "at most " + std::to_string(longest) + " for a token are read";
    return base::fail(base::ErrorCode::resource_exhausted, "a text of " + std::to_string(bytes) + " bytes, and " + why +
                                                               "; at most " + std::to_string(tokens_max) +
                                                               " tokens are taken");
}

std::uint64_t Tokenizer::text_bytes_per_token() const {
    return parts_->table.text_bytes_per_token;
}

const std::shared_ptr<TextProcess>& Tokenizer::process() const {
    return parts_->process;
}

std::string Tokenizer::decode(std::span<const base::TokenId> tokens, const DecodeOptions& options) const {
    StreamDetokenizer stream(*this, options);
    std::string text;
    for (const base::TokenId token : tokens) {
        stream.push(token, text);
    }
    stream.flush(text);
    return text;
}

std::string_view Tokenizer::token_bytes(base::TokenId token) const {
    if (!parts_->has(token)) { return {}; }
    const SluiceTokenTable& table = parts_->table;
    const auto id = static_cast<std::size_t>(token);
    return {reinterpret_cast<const char*>(table.bytes) + table.offsets[id], table.offsets[id + 1] - table.offsets[id]};
}

std::size_t Tokenizer::vocabulary_size() const {
    return parts_->table.tokens;
}

bool Tokenizer::is_special(base::TokenId token) const {
    return parts_->has(token) && (parts_->table.flags[token] & SLUICE_TOKEN_SPECIAL) != 0;
}

namespace {
std::optional<base::TokenId> optional_id(std::int64_t id) {
    if (id < 0) { return std::nullopt; }
    return static_cast<base::TokenId>(id);
}
}  // namespace

std::optional<base::TokenId> Tokenizer::token_of(std::string_view token) const {
    if (parts_->process) { return optional_id(parts_->process->token_id(token)); }
    return optional_id(sluice_tokenizer_id(parts_->handle, shim_bytes(token)));
}

std::optional<base::TokenId> Tokenizer::bos() const {
    return optional_id(parts_->table.bos);
}

std::optional<base::TokenId> Tokenizer::eos() const {
    return optional_id(parts_->table.eos);
}

}  // namespace text
