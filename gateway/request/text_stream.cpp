#include "gateway/request/text_stream.h"

#include "base/check.h"

namespace gateway {

TextStream::TextStream(std::unique_ptr<Detokenizer> detokenizer, Options options)
    : detokenizer_(std::move(detokenizer)), options_(std::move(options)), matcher_(options_.stop_strings) {}

Piece TextStream::push(TokenRecord record) {
    CHECK(!match_);
    std::string text = detokenizer_->push(record.token);
    record.text_offset = code_points_;
    code_points_ += code_points(text);
    held_tokens_.push_back({.record = std::move(record), .begin = produced_});
    produced_ += text.size();
    held_text_ += text;
    if (++tokens_ <= options_.tokens_min) {
        matcher_.pass(text);
        return release(produced_ - matcher_.held_bytes(), false);
    }
    match_ = matcher_.push(text);
    if (match_) { return release(options_.include_stop_string ? match_->end : match_->begin, true); }
    return release(produced_ - matcher_.held_bytes(), false);
}

Piece TextStream::finish() {
    if (match_) { return {}; }
    const std::string text = detokenizer_->flush();
    produced_ += text.size();
    held_text_ += text;
    match_ = matcher_.push(text);
    if (match_) { return release(options_.include_stop_string ? match_->end : match_->begin, true); }
    return release(produced_, true);
}

std::optional<std::string> TextStream::stopped() const {
    if (!match_) { return std::nullopt; }
    return matcher_.stop(match_->stop);
}

Piece TextStream::release(std::size_t end, bool all_tokens) {
    Piece piece;
    CHECK(end >= released_ && end <= released_ + held_text_.size());
    piece.text = held_text_.substr(0, end - released_);
    held_text_.erase(0, end - released_);
    released_ = end;
    while (!held_tokens_.empty()) {
        const std::size_t token_end = held_tokens_.size() > 1 ? held_tokens_[1].begin : produced_;
        // At the end (all_tokens) a token belongs to the text when it begins inside it.
        const bool is_out = all_tokens && match_ ? held_tokens_.front().begin < end : token_end <= end;
        if (!is_out) { break; }
        piece.tokens.push_back(std::move(held_tokens_.front().record));
        held_tokens_.pop_front();
    }
    return piece;
}

}  // namespace gateway
