#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "base/config.h"
#include "base/result.h"
#include "caching/semantic/semantic_cache.h"

namespace CLI {
class App;
}

namespace bench {

/// `sluice bench cache`: what the command line says.
struct CacheBenchOptions {
    std::string trace_path;  // JSON lines, .gz or not
    std::string pairs_path;
    std::string answers_path;         // pairs of answers, for the judge
    std::string embedder = "hashed";  // or the folder of a sentence encoder, or its name in the store
    std::string config_path;          // YAML with the section caching.semantic
    std::string out_path;             // "-": standard output
    std::string decisions_path;       // one JSON line a request: what was served and what it was worth
    std::string kernels = "auto";
    std::uint32_t threads = 1;
    double model_ms = 800;             // that the played model takes for an answer
    std::uint64_t pool_sequences = 0;  // that the played model answers at a time, others wait; 0: any number
    std::uint64_t seed = 1;
};

/// Plays a trace in the form of the reference data's trace_mixed through a cache on a virtual clock. The played model
/// answers with the oracle's key, so that every served answer can be judged; the cache sees what a gateway would see
/// and nothing of the oracle. With `pool_sequences` the trace is played once more, with and without bounds that give
/// way under load, whatever the configuration says: `adaptation` compares the traffic to the pool while it had more to
/// do than it could. Error: the files', the embedder's.
base::Result<boost::json::object> replay_trace(const CacheBenchOptions& options, caching::Embedder& embedder);

/// Every pair on a fresh cache: `a` is answered and stored, `b` is asked. Error: the file's, the embedder's.
base::Result<boost::json::object> score_pairs(const CacheBenchOptions& options, caching::Embedder& embedder);

/// Every pair of answers before the judge, by kind; `half` is "learn" for those that it was learnt from, which count
/// apart. Error: the file's.
base::Result<boost::json::object> score_answers(const CacheBenchOptions& options);

/// Reads the section caching.semantic. Error: the file's, with the line.
base::Result<caching::SemanticCacheOptions> read_cache_options(const std::string& config_path);

/// Lines of a file, unpacked when it is gzip. Error: not_found, data_loss.
base::Result<std::vector<std::string>> read_lines(const std::string& path);

/// Measures and prints. Exit status: 0; 1 with a line that says why.
int bench_cache_main(const CacheBenchOptions& options);
void add_bench_cache(CLI::App& app, CacheBenchOptions& options);

}  // namespace bench
