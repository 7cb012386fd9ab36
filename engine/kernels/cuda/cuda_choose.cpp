#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "base/check.h"
#include "engine/kernels/cuda/cuda_engine_backend.h"
#include "engine/kernels/cuda/sampling_rows.h"

namespace engine {
namespace {

using base::ErrorCode;
using base::Result;

/// Places one after the other in a buffer, each aligned.
class Packing {
public:
    template <class T>
    std::size_t add(std::size_t count) {
        const std::size_t at = bytes_;
        bytes_ += (count * sizeof(T) + 255) / 256 * 256;
        return at;
    }
    std::size_t bytes() const { return bytes_; }

private:
    std::size_t bytes_ = 0;
};

template <class T>
void put(std::byte* target, const std::vector<T>& values) {
    if (!values.empty()) { std::memcpy(target, values.data(), values.size() * sizeof(T)); }
}

Result<SampledToken> chosen_token(const cuda::SampledRow& row, const std::int32_t* top_tokens,
                                  const float* top_logprobs) {
    switch (row.status) {
        case cuda::SampleStatus::ok:
            break;
        case cuda::SampleStatus::bad_logit:
            return base::fail(ErrorCode::internal,
                              "logit of token " + std::to_string(row.token) + " is NaN or infinite");
        case cuda::SampleStatus::needs_host:
            return base::fail(ErrorCode::resource_exhausted, "more tokens to rank than the device has room for");
    }
    SampledToken token;
    token.token = row.token;
    token.logprob = row.logprob;
    for (std::uint32_t i = 0; i < row.top_count && top_tokens != nullptr; ++i) {
        token.top.push_back({top_tokens[i], top_logprobs[i]});
    }
    return token;
}

}  // namespace

Result<bool> CudaBackend::choose(const void* logits, std::uint32_t vocabulary, std::span<const RowChoice> choices,
                                 std::vector<Result<SampledToken>>& chosen) {
    const std::size_t count = choices.size();
    const auto rows = static_cast<std::int32_t>(count);
    const cuda::SamplingTables tables = cuda::make_sampling_tables(choices, vocabulary);

    Packing in;
    const std::size_t rows_at = in.add<cuda::SamplingRow>(count);
    const std::size_t biases_at = in.add<cuda::LogitBias>(tables.biases.size());
    const std::size_t penalised_at = in.add<cuda::PenalisedToken>(tables.penalised.size());
    const std::size_t masked_at = in.add<std::int32_t>(tables.masked_tokens.size());
    Packing out;
    const std::size_t sampled_at = out.add<cuda::SampledRow>(count);
    const std::size_t top_count = tables.wants_top ? count * cuda::kTopLogprobsMax : 0;
    const std::size_t top_tokens_at = out.add<std::int32_t>(top_count);
    const std::size_t top_logprobs_at = out.add<float>(top_count);

    const auto fetched = [&](GrowingBuffer& buffer, std::size_t bytes, bool on_host) -> Result<std::byte*> {
        return buffer.at_least(bytes, *device_, on_host);
    };
    const auto host_in = fetched(sampling_.host_in, in.bytes(), true);
    const auto device_in = fetched(sampling_.device_in, in.bytes(), false);
    const auto host_out = fetched(sampling_.host_out, out.bytes(), true);
    const auto device_out = fetched(sampling_.device_out, out.bytes(), false);
    CHECK(count * vocabulary * sizeof(float) <= changed_logits_.size());
    for (const auto* buffer : {&host_in, &device_in, &host_out, &device_out}) {
        if (!*buffer) { return base::pass_on(*buffer, "memory for sampling"); }
    }

    auto* sampled = reinterpret_cast<cuda::SampledRow*>(*device_out + sampled_at);
    if (!has_failed() && tables.is_greedy) {
        note(cuda::argmax_rows(static_cast<const float*>(logits), static_cast<std::int32_t>(vocabulary), rows, sampled,
                               nullptr, stream_),
             "argmax_rows");
    } else if (!has_failed()) {
        put(*host_in + rows_at, tables.rows);
        put(*host_in + biases_at, tables.biases);
        put(*host_in + penalised_at, tables.penalised);
        put(*host_in + masked_at, tables.masked_tokens);
        note(device_->copy_async(*stream_owner_, *device_in, *host_in, in.bytes()));
        cuda::SamplingArguments arguments;
        arguments.logits = static_cast<const float*>(logits);
        arguments.vocabulary = static_cast<std::int32_t>(vocabulary);
        arguments.rows = reinterpret_cast<const cuda::SamplingRow*>(*device_in + rows_at);
        arguments.row_count = rows;
        arguments.biases = reinterpret_cast<const cuda::LogitBias*>(*device_in + biases_at);
        arguments.penalised = reinterpret_cast<const cuda::PenalisedToken*>(*device_in + penalised_at);
        arguments.masked_tokens = reinterpret_cast<const std::int32_t*>(*device_in + masked_at);
        arguments.changed = reinterpret_cast<float*>(changed_logits_.data());
        arguments.sampled = sampled;
        if (tables.wants_top) {
            arguments.top_tokens = reinterpret_cast<std::int32_t*>(*device_out + top_tokens_at);
            arguments.top_logprobs = reinterpret_cast<float*>(*device_out + top_logprobs_at);
        }
        if (!has_failed()) { note(cuda::sample_rows(arguments, stream_), "sample_rows"); }
    }
    if (!has_failed()) { note(device_->copy_async(*stream_owner_, *host_out, *device_out, out.bytes())); }
    if (has_failed()) { news_.clear(); }
    if (auto waited = wait_for_all(); !waited) { return base::pass_on(waited); }

    const auto* results = reinterpret_cast<const cuda::SampledRow*>(*host_out + sampled_at);
    const auto* top_tokens = reinterpret_cast<const std::int32_t*>(*host_out + top_tokens_at);
    const auto* top_logprobs = reinterpret_cast<const float*>(*host_out + top_logprobs_at);
    for (std::size_t i = 0; i < count; ++i) {
        if (choices[i].by_caller) {
            chosen.push_back(base::fail(ErrorCode::resource_exhausted, "a row that the caller reads"));
            continue;
        }
        const std::size_t top_at = i * cuda::kTopLogprobsMax;
        chosen.push_back(chosen_token(results[i], tables.wants_top ? top_tokens + top_at : nullptr,
                                      tables.wants_top ? top_logprobs + top_at : nullptr));
    }
    return true;
}

}  // namespace engine
