#include <CLI/CLI.hpp>

#include "bench/serve.h"

namespace bench {

void add_bench_serve(CLI::App& app, ServeBenchOptions& options) {
    app.add_option("--url", options.url, "base URL; without a path /v1 is added")->capture_default_str();
    app.add_option("--api-key", options.api_key, "sent as a bearer token");
    app.add_option("--model", options.model, "model id (default: the first that the server lists)");
    app.add_option("--endpoint", options.endpoint, "chat or completions")
        ->check(CLI::IsMember({"chat", "completions"}))
        ->capture_default_str();

    const std::string load = "Load";
    app.add_option("--rate,--request-rate", options.rate,
                   "requests (with --turns, or a trace of conversations: conversations) per second")
        ->check(CLI::PositiveNumber)
        ->capture_default_str()
        ->group(load);
    app.add_option("--arrival", options.arrival, "poisson or constant")
        ->check(CLI::IsMember({"poisson", "constant"}))
        ->capture_default_str()
        ->group(load);
    app.add_option("--requests,--num-prompts", options.requests,
                   "measured requests of a run; with --trace the first that many, 0 for all")
        ->capture_default_str()
        ->group(load);
    app.add_option("--seed", options.seed, "the same seed sends the same load")->capture_default_str()->group(load);
    app.add_option("--trace", options.trace_path,
                   "replay: JSON lines (timestamp in ms, input_length, output_length; with hash_ids prompts share "
                   "prefixes as there, with session_id and delay they wait for each other), conversations (conv, keep, "
                   "new), or CSV (arrival_s, input_tokens, output_tokens); also compressed by gzip")
        ->check(CLI::ExistingFile)
        ->group(load);
    app.add_option("--trace-scale", options.trace_scale, "factor on the trace's times: 2 is half its speed")
        ->check(CLI::PositiveNumber)
        ->capture_default_str()
        ->group(load);
    app.add_option("--max-prompt-tokens", options.prompt_tokens_max, "cuts the trace's longer prompts")->group(load);
    app.add_option("--max-output-tokens", options.output_tokens_max, "cuts the trace's longer answers")->group(load);
    app.add_option("--max-in-flight,--max-concurrency", options.in_flight_max, "requests at once at most (0: no bound)")
        ->capture_default_str()
        ->group(load);
    app.add_option("--warmup", options.warmup, "requests before the measured ones")->capture_default_str()->group(load);
    app.add_option("--timeout-s", options.timeout_s, "for one request")
        ->check(CLI::PositiveNumber)
        ->capture_default_str()
        ->group(load);

    app.add_option(
           "--turns", options.turns,
           "conversations of so many turns, each with the answers before it; with --trace: at most so many of one")
        ->group(load);
    app.add_option("--think-s", options.think_s, "from an answer to the next turn, on average (without a trace)")
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str()
        ->group(load);
    app.add_option("--think-max-s", options.think_max_s, "cuts the trace's longer think times")
        ->check(CLI::NonNegativeNumber)
        ->group(load);

    const std::string content = "Requests";
    app.add_option("--lengths", options.lengths_path,
                   "draw lengths from a file: ShareGPT's JSON (with its texts), or CSV (input_tokens, output_tokens); "
                   "prompts beyond --max-prompt-tokens are left out")
        ->check(CLI::ExistingFile)
        ->group(content);
    app.add_option("--length-divisor", options.length_divisor,
                   "divides the lengths and blocks of --trace and --lengths")
        ->check(CLI::Range(1u, 1u << 20))
        ->capture_default_str()
        ->group(content);
    app.add_option("--prompt-tokens", options.prompt_tokens,
                   "about this long (words are fitted to the tokenizer by two probes)")
        ->check(CLI::PositiveNumber)
        ->capture_default_str()
        ->group(content);
    app.add_option("--output-tokens", options.output_tokens, "length of the answers")
        ->check(CLI::PositiveNumber)
        ->capture_default_str()
        ->group(content);
    app.add_option("--length-spread", options.length_spread, "0..1: lengths vary by this share, uniformly")
        ->check(CLI::Range(0.0, 1.0))
        ->capture_default_str()
        ->group(content);
    app.add_flag("--token-ids", options.token_ids,
                 "prompts of random token ids, exactly as long as asked (completions)")
        ->group(content);
    app.add_option("--token-id-first", options.token_id_first, "lowest id of --token-ids")
        ->capture_default_str()
        ->group(content);
    app.add_option("--token-id-last", options.token_id_last, "highest id of --token-ids")
        ->capture_default_str()
        ->group(content);
    app.add_option("--prompts", options.prompts_path, "texts to send in turn: a line each, or JSON lines with `prompt`")
        ->check(CLI::ExistingFile)
        ->group(content);
    app.add_option("--shared-prefix-tokens", options.shared_prefix_tokens,
                   "the first tokens of every prompt are the same")
        ->capture_default_str()
        ->group(content);
    app.add_flag("--ignore-eos,!--no-ignore-eos", options.ignore_eos,
                 "ask for answers of exactly --output-tokens (default)")
        ->group(content);
    app.add_option("--temperature", options.temperature, "of every request; 0: greedy")
        ->capture_default_str()
        ->group(content);

    const std::string slo = "SLO";
    app.add_option("--slo-ttft-ms", options.slo_ttft_ms, "target of the time to the first token")
        ->check(CLI::PositiveNumber)
        ->group(slo);
    app.add_option("--slo-tpot-ms", options.slo_tpot_ms, "target of the time per later token")
        ->check(CLI::PositiveNumber)
        ->group(slo);
    app.add_option("--goodput", options.goodput, "targets in vLLM's form, in ms: --goodput ttft:200 tpot:50 e2el:5000")
        ->expected(1, 3)
        ->group(slo);
    app.add_option("--attainment", options.attainment, "share of requests that must meet the targets")
        ->check(CLI::Range(0.0, 1.0))
        ->capture_default_str()
        ->group(slo);
    app.add_flag("--find-goodput", options.find_goodput,
                 "search the highest rate that meets the targets, from --rate on")
        ->group(slo);
    app.add_option("--rate-max", options.rate_max, "bound of the search")
        ->check(CLI::PositiveNumber)
        ->capture_default_str()
        ->group(slo);
    app.add_option("--precision", options.precision, "the search ends within this share")
        ->check(CLI::PositiveNumber)
        ->capture_default_str()
        ->group(slo);

    app.add_option("--sweep-request-rate", options.sweep_rates, "a run at each of these rates: 1 2 4, or 1,2,4")
        ->delimiter(',')
        ->check(CLI::PositiveNumber)
        ->group(slo);
    app.add_flag("--steady-state", options.steady_state,
                 "also the figures from the first answer's end until the last request was due");
    app.add_flag("--result-block", options.result_block, "also the block of results that vLLM's benchmark prints");
    app.add_option("--out", options.out_path, "JSON with the figures, every request, the command line and the machine");
    app.add_flag("--quiet", options.quiet, "no progress on standard error");
}

}  // namespace bench
