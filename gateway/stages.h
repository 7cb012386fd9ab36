#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/block_hash.h"
#include "gateway/openai/prepare.h"
#include "gateway/openai/request_form.h"
#include "gateway/openai/token_prefixes.h"
#include "gateway/request/models.h"
#include "gateway/request/ports.h"

namespace gateway {

struct ApiKey;
struct CacheAsk;

/// Whose request a form is.
struct RewriteContext {
    std::string_view tenant = {};
    const ApiKey* key = nullptr;      // null: there are no keys
    const CacheAsk* cache = nullptr;  // null: there is no cache
};

/// Changes what a client asked for after it was read and before it becomes tokens, e.g. by examples in its context.
/// Thread-safe.
class FormRewriter {
public:
    virtual ~FormRewriter() = default;
    /// An error is the request's answer.
    virtual ApiResult<void> rewrite(RequestForm& form, const RewriteContext& context) const = 0;
};

/// 503 with Retry-After, as whoever asks too early or too late gets it.
ApiError not_ready(std::string message);
/// Why a model of this kind cannot answer when nobody runs it.
std::string_view no_workers_of(ModelKind kind);

/// The stages of a request up to its prompts: read the form, rewrite it, prepare it. The last one, where its sequences
/// come from, is a SequenceSource that Answer opens them at. Thread-safe; runs on the text threads.
class Stages {
public:
    struct Setup {
        const Models& models;  // borrowed
        FormLimits limits;
        base::HashKey hash_key;
        std::vector<const FormRewriter*> rewriters;  // in order; borrowed
        std::size_t prefix_tokens_max = 0;           // of each model's chats, that are kept; 0: none
        bool tenants_share_prefixes = false;         // blocks and tokens of one tenant's prompts serve another's
    };
    struct Input {
        Endpoint endpoint;
        std::string_view body;
        const std::vector<ClusterView>& clusters;  // by model, as they were when the request came
        std::int64_t now_unix_s;
        RewriteContext who = {};
    };
    struct Output {
        std::optional<std::size_t> model;  // once it is known, also of a request that failed
        bool stream = false;               // as far as it is known, likewise
        /// Errors: of read_form, of a rewriter, of prepare; 503 when the model's workers have never been heard of.
        ApiResult<PreparedRequest> prepared;
    };
    explicit Stages(Setup setup);

    Output run(const Input& input) const;
    /// The last stage alone, of a form that no client sent; of `input` the body is not read.
    ApiResult<PreparedRequest> prepare(RequestForm form, const Input& input) const;

private:
    ApiResult<RequestForm> read(Endpoint endpoint, const boost::json::object& body) const;
    ApiResult<void> rewrite(RequestForm& form, const RewriteContext& context) const;
    /// Of a form that was given to one of two models: by the other one where that one cannot.
    ApiResult<PreparedRequest> prepare_routed(RequestForm form, const Input& input, std::size_t& model) const;

    Setup setup_;
    std::vector<std::unique_ptr<TokenPrefixes>> prefixes_;  // by model
};

}  // namespace gateway
