#include "caching/store/shared_document.h"

#include <algorithm>
#include <span>
#include <utility>

#include "caching/semantic/bytes.h"

namespace caching {
namespace {

constexpr std::string_view kDocumentForm = "sluice shared answer 1";
constexpr std::string_view kPurgeForm = "sluice shared purge 1";
constexpr std::size_t kSealBytes = 16;

void put_hash(ByteWriter& bytes, const base::BlockHash& hash) {
    bytes.number(hash.high);
    bytes.number(hash.low);
}

base::BlockHash take_hash(ByteReader& bytes) {
    base::BlockHash hash;
    hash.high = bytes.number<std::uint64_t>();
    hash.low = bytes.number<std::uint64_t>();
    return hash;
}

void put_text(ByteWriter& bytes, const std::optional<std::string>& text) {
    bytes.number(static_cast<std::uint8_t>(text.has_value()));
    if (text) { bytes.text(*text); }
}

std::optional<std::string> take_text(ByteReader& bytes) {
    if (bytes.number<std::uint8_t>() == 0) { return std::nullopt; }
    return bytes.text();
}

/// Of the body under its name.
std::string seal_of(std::string_view body, const base::BlockHash& name, const base::HashKey& key) {
    ByteWriter sealed;
    put_hash(sealed, name);
    sealed.text(body);
    const std::string all = sealed.take();
    ByteWriter seal;
    put_hash(seal, base::keyed_hash(key, std::as_bytes(std::span(all))));
    return seal.take();
}

}  // namespace

std::string document_bytes(const SharedDocument& document, const base::HashKey& key) {
    const SavedAnswer& answer = document.answer;
    ByteWriter bytes;
    bytes.text(kDocumentForm);
    put_hash(bytes, document.since.life);
    bytes.number(document.since.purges);
    bytes.text(answer.tenant);
    bytes.text(answer.model);
    bytes.text(answer.revision);
    bytes.number(static_cast<std::uint32_t>(answer.tags.size()));
    for (const std::string& tag : answer.tags) {
        bytes.text(tag);
    }
    bytes.number(answer.created_unix_us);
    bytes.number(answer.expires_unix_us);
    bytes.number(answer.saved_s);
    bytes.text(answer.answer.text);
    bytes.number(static_cast<std::uint8_t>(answer.answer.is_cut));
    put_text(bytes, answer.answer.stop_string);
    bytes.number(static_cast<std::uint8_t>(answer.answer.stop_token.has_value()));
    if (answer.answer.stop_token) { bytes.number(static_cast<std::int64_t>(*answer.answer.stop_token)); }
    for (const std::uint32_t count : {answer.answer.prompt_tokens, answer.answer.cached_tokens,
                                      answer.answer.completion_tokens, answer.answer.reasoning_tokens}) {
        bytes.number(count);
    }
    const std::string body = bytes.take();
    return seal_of(body, answer.key, key) + body;
}

std::optional<SharedDocument> read_document(std::string_view all, const base::BlockHash& name,
                                            const base::HashKey& key) {
    if (all.size() <= kSealBytes) { return std::nullopt; }
    const std::string_view body = all.substr(kSealBytes);
    if (seal_of(body, name, key) != all.substr(0, kSealBytes)) { return std::nullopt; }
    ByteReader bytes(body);
    if (bytes.text() != kDocumentForm) { return std::nullopt; }
    SharedDocument document;
    document.since.life = take_hash(bytes);
    document.since.purges = bytes.number<std::uint64_t>();
    SavedAnswer& answer = document.answer;
    answer.key = name;
    answer.tenant = bytes.text();
    answer.model = bytes.text();
    answer.revision = bytes.text();
    const auto tags = bytes.number<std::uint32_t>();
    for (std::uint32_t tag = 0; tag < tags && bytes.ok(); ++tag) {
        answer.tags.push_back(bytes.text());
    }
    answer.created_unix_us = bytes.number<std::int64_t>();
    answer.expires_unix_us = bytes.number<std::int64_t>();
    answer.saved_s = bytes.number<double>();
    answer.answer.text = bytes.text();
    answer.answer.is_cut = bytes.number<std::uint8_t>() != 0;
    answer.answer.stop_string = take_text(bytes);
    if (bytes.number<std::uint8_t>() != 0) {
        answer.answer.stop_token = static_cast<base::TokenId>(bytes.number<std::int64_t>());
    }
    for (std::uint32_t* count : {&answer.answer.prompt_tokens, &answer.answer.cached_tokens,
                                 &answer.answer.completion_tokens, &answer.answer.reasoning_tokens}) {
        *count = bytes.number<std::uint32_t>();
    }
    if (!bytes.at_end()) { return std::nullopt; }
    return document;
}

bool SharedPurge::matches(const SavedAnswer& answer) const {
    if (near_text) { return false; }
    AnswerFilter filter;
    filter.key = name;
    filter.tenant = tenant;
    filter.tag = tag;
    filter.revision = revision;
    filter.created_before_unix_us = created_before_unix_us;
    return filter.matches(answer);
}

std::string purge_bytes(const SharedPurge& purge) {
    ByteWriter bytes;
    bytes.text(kPurgeForm);
    bytes.number(static_cast<std::uint8_t>(purge.name.has_value()));
    if (purge.name) { put_hash(bytes, *purge.name); }
    put_text(bytes, purge.tenant);
    put_text(bytes, purge.tag);
    put_text(bytes, purge.revision);
    bytes.number(static_cast<std::uint8_t>(purge.created_before_unix_us.has_value()));
    if (purge.created_before_unix_us) { bytes.number(*purge.created_before_unix_us); }
    put_text(bytes, purge.near_text);
    bytes.number(purge.near_similarity);
    return bytes.take();
}

SharedPurge read_purge_bytes(std::string_view given) {
    ByteReader bytes(given);
    SharedPurge purge;
    const bool is_ours = bytes.text() == kPurgeForm;
    if (bytes.number<std::uint8_t>() != 0) { purge.name = take_hash(bytes); }
    purge.tenant = take_text(bytes);
    purge.tag = take_text(bytes);
    purge.revision = take_text(bytes);
    if (bytes.number<std::uint8_t>() != 0) { purge.created_before_unix_us = bytes.number<std::int64_t>(); }
    purge.near_text = take_text(bytes);
    purge.near_similarity = bytes.number<double>();
    return is_ours && bytes.at_end() ? purge : SharedPurge();
}

}  // namespace caching
