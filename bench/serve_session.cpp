#include "bench/serve_session.h"

#include <cstring>
#include <optional>
#include <random>
#include <utility>
#include <variant>

#include "bench/packed_file.h"
#include "bench/sessions.h"
#include "bench/vllm_form.h"

namespace bench {
namespace {

constexpr Seconds kGetTimeout{30};
constexpr std::size_t kFileBytesMax = std::size_t{4} << 30;
constexpr std::size_t kProbeWords[2] = {16, 64};  // of the two probes that tell how long a word is for the tokenizer

}  // namespace

LoadOptions load_options(const ServeBenchOptions& options, const Session& session) {
    LoadOptions load;
    load.endpoint = session.form.endpoint;
    load.timeout = Seconds(options.timeout_s);
    load.in_flight_max = options.in_flight_max;
    load.check_length = options.ignore_eos;
    return load;
}

std::vector<LoadRequest> make_requests(const Session& session, std::span<const PlannedRequest> plan,
                                       Conversations* conversations) {
    PromptMaker prompts(session.prompts);
    std::vector<LoadRequest> requests;
    requests.reserve(plan.size());
    for (const PlannedRequest& planned : plan) {
        if (planned.after && conversations == nullptr) {  // made when it is sent
            requests.push_back({planned, ""});
            continue;
        }
        const Prompt prompt = planned.blocks.empty()
                                  ? prompts.make(planned.prompt_tokens)
                                  : prompts.make(planned.prompt_tokens, planned.blocks, planned.block_tokens);
        if (conversations != nullptr) {
            conversations->texts.push_back(std::get<std::string>(prompt));
            if (!planned.after) { conversations->messages[planned.session] = {{"user", conversations->texts.back()}}; }
        }
        requests.push_back({planned, planned.after ? "" : request_body(session.form, prompt, planned.output_tokens)});
    }
    return requests;
}

base::Result<std::vector<RequestRecord>> run_in_turn(const ServeBenchOptions& options, const Session& session,
                                                     std::span<const LoadRequest> requests) {
    LoadOptions load = load_options(options, session);
    load.in_flight_max = 1;
    load.check_length = false;
    auto records = run_load(session.target, requests, load);
    if (!records) { return records; }
    if (records->size() < requests.size()) { return base::fail(base::ErrorCode::cancelled, "interrupted"); }
    for (const RequestRecord& record : *records) {
        if (!record.is_ok()) {
            return base::fail(base::ErrorCode::unavailable,
                              "a first request failed (" + record.error_kind + "): " + record.error_message);
        }
    }
    return records;
}

namespace {

/// Two short requests tell how many tokens a word is and what the template adds.
base::Result<WordLength> probe_word_length(const ServeBenchOptions& options, const Session& session) {
    std::mt19937_64 random{options.seed};
    std::vector<LoadRequest> probes;
    for (const std::size_t words : kProbeWords) {
        const PlannedRequest plan{.due = {}, .prompt_tokens = 0, .output_tokens = 1};
        probes.push_back({plan, request_body(session.form, PromptMaker::random_words(random, words), 1)});
    }
    const auto records = run_in_turn(options, session, probes);
    if (!records) { return base::pass_on(records); }
    return fit_word_length(kProbeWords[0], (*records)[0].prompt_tokens, kProbeWords[1], (*records)[1].prompt_tokens);
}

/// What contradicts itself.
std::optional<base::Result<void>> check_options(const ServeBenchOptions& options) {
    const auto wrong = [](const char* message) {
        return std::optional<base::Result<void>>(base::fail(base::ErrorCode::invalid_argument, message));
    };
    if (options.token_ids && options.endpoint != "completions") {
        return wrong("--token-ids needs --endpoint completions");
    }
    if (options.token_ids && !options.prompts_path.empty()) {
        return wrong("--token-ids and --prompts exclude each other");
    }
    if (options.token_id_first < 0 || options.token_id_first > options.token_id_last) {
        return wrong("--token-id-first must lie in 0..--token-id-last");
    }
    const bool has_slo = options.slo_ttft_ms || options.slo_tpot_ms;
    if (has_slo && !options.goodput.empty()) { return wrong("--goodput and --slo-... exclude each other"); }
    if (options.find_goodput && !has_slo && options.goodput.empty()) {
        return wrong("--find-goodput needs --slo-ttft-ms, --slo-tpot-ms or --goodput");
    }
    if (options.find_goodput && !options.sweep_rates.empty()) {
        return wrong("--find-goodput and --sweep-request-rate exclude each other");
    }
    if (!options.lengths_path.empty() && (!options.trace_path.empty() || !options.prompts_path.empty())) {
        return wrong("--lengths excludes --trace and --prompts");
    }
    if (options.turns > 0 && options.trace_path.empty() && (options.token_ids || !options.lengths_path.empty())) {
        return wrong("--turns without a trace sends the answers back as text: it excludes --token-ids and --lengths");
    }
    return std::nullopt;
}

base::Result<std::vector<PlannedRequest>> read_trace(const ServeBenchOptions& options) {
    const auto text = read_packed(options.trace_path, kFileBytesMax);
    if (!text) { return base::pass_on(text); }
    if (is_session_trace(*text)) {
        return parse_session_trace(*text,
                                   {.rate = options.rate,
                                    .arrival = options.arrival == "constant" ? Arrival::constant : Arrival::poisson,
                                    .seed = options.seed,
                                    .time_scale = options.trace_scale,
                                    .think_max = Seconds(options.think_max_s),
                                    .length_divisor = options.length_divisor,
                                    .turns_max = options.turns,
                                    .requests = options.requests,
                                    .prompt_tokens_max = options.prompt_tokens_max,
                                    .output_tokens_max = options.output_tokens_max});
    }
    return parse_trace(*text, {.time_scale = options.trace_scale,
                               .length_divisor = options.length_divisor,
                               .requests = options.requests,
                               .prompt_tokens_max = options.prompt_tokens_max,
                               .output_tokens_max = options.output_tokens_max});
}

}  // namespace

base::Result<Session> prepare(const ServeBenchOptions& options) {
    Session session;
    auto target = parse_url(options.url);
    if (!target) { return base::pass_on(target); }
    session.target = *target;
    session.target.api_key = options.api_key;
    session.form = {.endpoint = options.endpoint == "chat" ? Endpoint::chat : Endpoint::completions,
                    .model = options.model,
                    .ignore_eos = options.ignore_eos,
                    .temperature = options.temperature};
    if (auto wrong = check_options(options)) { return base::pass_on(*wrong); }
    auto goodput = parse_goodput(options.goodput);
    if (!goodput) { return base::pass_on(goodput); }
    session.targets = *goodput;
    if (options.slo_ttft_ms) { session.targets.ttft = Seconds(*options.slo_ttft_ms / 1e3); }
    if (options.slo_tpot_ms) { session.targets.tpot = Seconds(*options.slo_tpot_ms / 1e3); }
    if (!options.trace_path.empty()) {
        auto trace = read_trace(options);
        if (!trace) { return base::pass_on(trace, options.trace_path); }
        session.trace = std::move(*trace);
    }
    if (!options.lengths_path.empty()) {
        const auto text = read_packed(options.lengths_path, kFileBytesMax);
        if (!text) { return base::pass_on(text); }
        auto lengths = parse_lengths(*text);
        if (!lengths) { return base::pass_on(lengths, options.lengths_path); }
        session.lengths = std::move(*lengths);
        if (options.token_ids && !session.lengths.front().prompt.empty()) {
            return base::fail(base::ErrorCode::invalid_argument, "--token-ids excludes --lengths with texts");
        }
    }
    session.prompts = {.seed = options.seed,
                       .word_length = {},
                       .token_ids = options.token_ids,
                       .token_id_first = options.token_id_first,
                       .token_id_last = options.token_id_last,
                       .texts = {},
                       .shared_prefix_tokens = options.shared_prefix_tokens};
    if (!options.prompts_path.empty()) {
        auto text = read_packed(options.prompts_path, kFileBytesMax);
        if (!text) { return base::pass_on(text); }
        auto prompts = parse_prompts(*text);
        if (!prompts) { return base::pass_on(prompts, options.prompts_path); }
        session.prompts.texts = std::move(*prompts);
    }

    if (session.form.model.empty()) {
        const auto answer = http_get(session.target, "/models", kGetTimeout);
        if (!answer) { return base::pass_on(answer); }
        if (answer->status != 200) {
            return base::fail(base::ErrorCode::unavailable, "the list of models was answered with status " +
                                                                std::to_string(answer->status) + ": " +
                                                                error_message_of(answer->body));
        }
        auto model = first_model_of(answer->body);
        if (!model) { return base::pass_on(model); }
        session.form.model = std::move(*model);
    }
    if (!options.token_ids && session.prompts.texts.empty()) {
        const auto word_length = probe_word_length(options, session);
        if (!word_length) { return base::pass_on(word_length); }
        session.prompts.word_length = *word_length;
    }
    return session;
}

}  // namespace bench
