#include "text/tokenizer.h"

#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/gguf_model.h"
#include "text/detokenizer.h"
#include "text/gguf_text.h"
#include "text/shim_call.h"
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
        return make(path, options, [&](SluiceTokenizer** handle, SluiceBuffer* message) {
            return sluice_tokenizer_load_gguf(&*vocabulary, handle, message);
        });
    }
    const auto files = find_tokenizer_files(path, options.pattern, options.file_bytes_max);
    if (!files) { return base::pass_on(files); }
    return make(files->path, options, [&](SluiceTokenizer** handle, SluiceBuffer* message) {
        return sluice_tokenizer_load(files->kind, shim_bytes(files->first), shim_bytes(files->second),
                                     shim_bytes(files->options_json), handle, message);
    });
}

template <class Load>
base::Result<std::shared_ptr<const Tokenizer>> Tokenizer::make(const std::filesystem::path& path,
                                                               const TokenizerOptions& options, const Load& load) {
    auto parts = std::make_unique<Parts>();
    ShimBuffer message;
    if (const std::int32_t code = load(&parts->handle, message.out()); code != SLUICE_OK) {
        base::Error error = shim_error(code, message.view());
        return base::fail(error.code, path.string() + ": " + error.message);
    }
    sluice_tokenizer_table(parts->handle, &parts->table);
    parts->text_bytes_max = options.text_bytes_max;
    return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(parts)));
}

base::Result<std::vector<base::TokenId>> Tokenizer::encode(std::string_view utf8, const EncodeOptions& options) const {
    if (utf8.size() > parts_->text_bytes_max) {
        return base::fail(base::ErrorCode::resource_exhausted,
                          "a text of " + std::to_string(utf8.size()) + " bytes; at most " +
                              std::to_string(parts_->text_bytes_max) + " are encoded");
    }
    std::uint32_t flags = 0;
    if (options.add_special) { flags |= SLUICE_ADD_SPECIAL; }
    if (options.parse_special) { flags |= SLUICE_PARSE_SPECIAL; }
    ShimBuffer out;
    const std::int32_t code = sluice_tokenizer_encode(parts_->handle, shim_bytes(utf8), options.text_starts.data(),
                                                      options.text_starts.size(), flags, out.out());
    if (code != SLUICE_OK) { return tl::unexpected<base::Error>(shim_error(code, out.view())); }
    std::vector<base::TokenId> ids(out.view().size() / sizeof(base::TokenId));
    if (!ids.empty()) { std::memcpy(ids.data(), out.view().data(), ids.size() * sizeof(base::TokenId)); }
    return ids;
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
    return optional_id(sluice_tokenizer_id(parts_->handle, shim_bytes(token)));
}

std::optional<base::TokenId> Tokenizer::bos() const {
    return optional_id(parts_->table.bos);
}

std::optional<base::TokenId> Tokenizer::eos() const {
    return optional_id(parts_->table.eos);
}

}  // namespace text
