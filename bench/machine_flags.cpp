#include <CLI/CLI.hpp>

#include "bench/engine_steps.h"
#include "bench/kernels.h"
#include "bench/machine.h"

namespace bench {

void add_bench_machine(CLI::App& app, MachineBenchOptions& options) {
    app.add_option("--threads", options.threads, "of the second column (0: all processors)")->capture_default_str();
    app.add_option("--samples", options.samples, "of each figure; medians are told")
        ->check(CLI::Range(1u, 1000u))
        ->capture_default_str();
    app.add_option("--sample-ms", options.sample_ms, "least time of one sample")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    app.add_flag("--quick", options.quick, "DRAM and peak rates only");
    app.add_flag("--cpu-time", options.processor_time, "processor time instead of the wall clock (busy machines)");
    app.add_option("--out", options.out_path, "JSON file; - writes it to standard output instead of the table");
}

void add_bench_engine(CLI::App& app, EngineBenchOptions& options) {
    app.add_option("--model", options.model_dir, "model folder (`sluice model make` writes one), or a GGUF file")
        ->required();
    app.add_option("--device", options.device, "auto, host, cuda:0, ...")->capture_default_str();
    app.add_option("--kernels", options.kernels, "auto, amx, avx512, avx2, reference, cuda")->capture_default_str();
    app.add_option("--prefill-attention", options.prefill_attention, "cuda: auto, mma, wgmma")->capture_default_str();
    app.add_option("--weight-format", options.weight_format, "as engine.weight_format")->capture_default_str();
    app.add_flag("--dependent-launch", options.dependent_launch, "cuda: as engine.dependent_launch");
    app.add_flag("--deterministic", options.deterministic, "cuda: numbers that do not depend on the batch");
    app.add_option("--threads", options.threads, "compute threads of the host")
        ->check(CLI::Range(1u, 1024u))
        ->capture_default_str();
    app.add_option("--prefill", options.prompts, "tokens of one prompt, several with commas")
        ->delimiter(',')
        ->check(CLI::Range(1u, 1u << 20))
        ->capture_default_str();
    app.add_option("--batch", options.batches, "sequences of a decode step, several with commas")
        ->delimiter(',')
        ->check(CLI::Range(1u, 4096u))
        ->capture_default_str();
    app.add_option("--beside", options.beside,
                   "other engines of the model, each on cores of its own, that compute at once for the last figures; "
                   "fewer where there are no cores; 0: none")
        ->check(CLI::Range(0u, 63u))
        ->capture_default_str();
    app.add_option("--context", options.context, "tokens of each sequence before the decode steps")
        ->check(CLI::Range(1u, 1u << 20))
        ->capture_default_str();
    app.add_option("--batch-tokens", options.batch_tokens_max, "new tokens of a step at most")
        ->check(CLI::Range(1u, 65536u))
        ->capture_default_str();
    app.add_option("--samples", options.samples, "of each figure; medians are told")
        ->check(CLI::Range(1u, 1000u))
        ->capture_default_str();
    app.add_option("--temperature", options.temperature, "of decode steps; 0: greedy")
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
    app.add_option("--top-p", options.top_p, "of decode steps")->capture_default_str();
    app.add_option("--out", options.out_path, "JSON file; - writes it to standard output instead of the table");
}

void add_bench_kernels(CLI::App& app, KernelsBenchOptions& options) {
    app.add_option("--threads", options.threads, "compute threads")
        ->check(CLI::Range(1u, 1024u))
        ->capture_default_str();
    app.add_option("--family", options.family, "auto, amx, avx512, avx2 or reference")->capture_default_str();
    app.add_option("--format", options.format, "bf16 or f32")
        ->check(CLI::IsMember({"bf16", "f32"}))
        ->capture_default_str();
    app.add_flag("--cpu-time", options.processor_time, "processor time instead of the wall clock (busy machines)");
    app.add_option("--only", options.only, "linear, model or attention (default: all)");
}

}  // namespace bench
