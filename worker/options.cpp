#include "worker/options.h"

namespace worker {

WorkerOptions WorkerOptions::defaults(bool on_gpu) {
    WorkerOptions options;
    options.forced_tokens_max = 32;
    if (on_gpu) {
        options.queue_requests_max = 1024;
        options.batch_sequences_max = 256;
        options.batch_tokens_max = 8192;
        options.chunk_tokens_max = 512;  // 8B on an H200: about 10 ms between the tokens of those who decode beside it
    }
    return options;
}

WorkerOptions WorkerOptions::read(base::Config& config, bool on_gpu) {
    WorkerOptions options = defaults(on_gpu);
    const auto count = [&config](std::string_view key, auto fallback, std::int64_t low, std::int64_t high) {
        return static_cast<decltype(fallback)>(config.integer(key, static_cast<std::int64_t>(fallback), low, high));
    };
    const auto milliseconds = [&config](std::string_view key, std::chrono::milliseconds fallback) {
        return std::chrono::milliseconds(config.integer(key, fallback.count(), 1, 3'600'000));
    };
    options.queue_requests_max = count("worker.queue_requests_max", options.queue_requests_max, 1, 100'000);
    options.commands_max = count("worker.commands_max", options.commands_max, 16, 1'000'000);
    options.batch_sequences_max = count("worker.batch_sequences_max", options.batch_sequences_max, 1, 4096);
    options.batch_tokens_max = count("worker.batch_tokens_max", options.batch_tokens_max, 1, 65536);
    options.chunk_tokens_max = count("worker.chunk_tokens_max", options.chunk_tokens_max, 1, 65536);
    options.prompt_wait = milliseconds("worker.prompt_wait_ms", options.prompt_wait);
    options.priority_wait = milliseconds("worker.priority_wait_ms", options.priority_wait);
    options.heartbeat = milliseconds("worker.heartbeat_ms", options.heartbeat);
    options.drain_timeout = milliseconds("worker.drain_timeout_ms", options.drain_timeout);
    options.stall_limit = milliseconds("worker.stall_limit_ms", options.stall_limit);
    options.kv_wait = milliseconds("worker.kv_wait_ms", options.kv_wait);
    options.kv_lease = milliseconds("worker.kv_lease_ms", options.kv_lease);
    options.room_pending = milliseconds("worker.room_pending_ms", options.room_pending);
    options.handoff_timeout = milliseconds("worker.handoff_timeout_ms", options.handoff_timeout);
    options.mask_wait = milliseconds("worker.mask_wait_ms", options.mask_wait);
    options.grammar_threads = count("worker.grammar_threads", options.grammar_threads, 1, 64);
    options.forced_tokens_max = count("worker.forced_tokens_max", options.forced_tokens_max, 0, 1024);
    options.grammars_kept_max = count("worker.grammars_kept_max", options.grammars_kept_max, 1, 10'000);
    options.gateways_max = count("worker.gateways_max", options.gateways_max, 1, 65'536);
    options.output_buffer_bytes = count("worker.output_buffer_bytes", options.output_buffer_bytes, 1 << 16, 1 << 30);
    options.fetches_max = count("worker.fetches_max", options.fetches_max, 0, 4096);
    options.kv_codec = config.choice("worker.kv_codec", options.kv_codec,
                                     {"raw", "exact", "auto", "int8", "zstd", "cachegen", "sluice"});
    options.kv_level = count("worker.kv_level", options.kv_level, 0, 15);
    options.kv_lossy_allowed = config.choice("worker.kv_lossy", "off", {"off", "allowed"}) == "allowed";
    options.kv_profile = config.string("worker.kv_profile", options.kv_profile);
    options.fetch_answer = milliseconds("worker.fetch_answer_ms", options.fetch_answer);
    options.fetch_timeout = milliseconds("worker.fetch_timeout_ms", options.fetch_timeout);
    options.kv_both_ends = config.boolean("worker.kv_both_ends", options.kv_both_ends);
    options.kv_ahead_percent = count("worker.kv_ahead_percent", options.kv_ahead_percent, 0, 100);
    return options;
}

}  // namespace worker
