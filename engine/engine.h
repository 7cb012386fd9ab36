#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "base/model_shape.h"
#include "base/result.h"
#include "engine/batch.h"
#include "engine/model/packed_cache.h"
#include "engine/sampling.h"
#include "kv_cache/kv_store.h"

namespace engine {

/// Layers [layer_begin, layer_end) of all tokens of the batch are in the KV blocks. Called in ascending order on the
/// engine's compute thread while later layers still compute: must only hand the news on.
using LayersDone = std::function<void(std::uint32_t layer_begin, std::uint32_t layer_end)>;

/// The step has ended: collect() gives its result now. Called once a launch, on the engine's own thread or from within
/// launch(), and has returned before collect() does: must only hand the news on.
using StepDone = std::function<void()>;

/// A step that was launched, until it is collected.
enum class Ticket : std::uint64_t {};

struct EntryResult {
    base::SequenceId sequence{};
    std::optional<SampledToken> sampled;
    std::vector<SampledToken> scores;  // with `score`: one per new token (token = its target)
    std::vector<float> logits;         // with keep_logits: [tokens.size(), vocabulary]
    std::vector<float> pooled;         // with pooling: [hidden]
    std::optional<base::Error> error;  // nothing could be chosen for this sequence: logits that are no numbers
                                       // (internal), a mask that has not come (deadline_exceeded) or allows nothing
};

struct StepResult {
    std::vector<EntryResult> entries;  // in the order of the batch
    Batch batch;                       // the one that was launched: to be filled again
    base::TimePoint began;             // when the engine began and ended to compute: between the end of a step and the
    base::TimePoint ended;             // beginning of the next one it stood idle
};

/// Which heads, columns and layers an engine holds. Whole is the only value that is built now.
struct ShardSpec {
    std::uint32_t rank = 0;
    std::uint32_t ranks = 1;
    bool operator==(const ShardSpec&) const = default;
};

/// Names everything that decides the bits of a result: weights, weight and KV format, kernel family and version,
/// shards.
enum class NumericsId : std::uint64_t {};

struct EngineOptions {
    std::string model_dir;                   // a Hugging Face folder, or a GGUF file
    std::string device = "host";             // auto, host, cuda:N (device::parse_device)
    std::string kernels = "auto";            // auto, amx, avx512, avx2, reference, cuda; the others mean the host
    bool deterministic = false;              // cuda: numbers do not depend on the batch; on the host they never do
    std::string prefill_attention = "auto";  // cuda: mma (auto), or on Hopper wgmma
    bool dependent_launch = false;           // cuda 9.0 or newer: a kernel may begin before the one before it has ended
    std::string weight_format =
        "auto";  // auto: as in the checkpoint (f16 becomes f32, blocks bf16), on cuda bf16; f32, bf16, fp8
    std::string kv_dtype = "auto";  // auto: bf16 with bf16 or fp8 weights, else f32
    std::uint32_t block_tokens = 16;
    std::uint64_t kv_pool_bytes = 0;       // 0: chosen (kv_sizing.h); blocks_total follows
    bool kv_prefault = false;              // the host: the pool's pages are there before they are used
    std::uint64_t host_memory_bytes = 0;   // that weights, KV and steps may take on the host; 0: what it has available
    double gpu_memory_share = 0.9;         // of a GPU's memory that weights, KV and steps take, with kv_pool_bytes 0
    std::uint32_t batch_tokens_max = 512;  // new tokens of one step
    std::uint32_t batch_sequences_max = 64;  // entries of one step; also rows of logits
    std::uint32_t threads = 1;
    std::vector<std::uint32_t> cpus;  // empty: not pinned
    std::uint32_t layer_group = 0;    // layers per LayersDone call; 0: chosen (about 4 calls a step)
    std::string packed_dir;  // where packed weight files live; empty: $XDG_CACHE_HOME/sluice or ~/.cache/sluice
    std::uint64_t packed_bytes_max = kPackedBytesMax;  // of all of them; the least recently used go first
    ShardSpec shard;
};

/// Runs the forward passes of one model over one KV store, or of an encoder, which needs none. launch(), ready() and
/// collect() are called by the step thread only; the work happens on the engine's own threads in between. At most one
/// ticket is open. Destroying an engine waits for the step that runs: a process that has given up on one ends without.
class Engine {
public:
    virtual ~Engine() = default;

    virtual const base::ModelShape& shape() const = 0;
    /// False: an encoder, which has neither layout() nor kv_store() (CHECKed) and gives vectors only (Pooling::own).
    bool keeps_kv() const { return blocks_total() > 0; }
    virtual const kv_cache::KvLayout& layout() const = 0;
    virtual kv_cache::KvStore& kv_store() = 0;
    /// 0: see keeps_kv().
    virtual std::uint32_t blocks_total() const = 0;
    virtual NumericsId numerics_id() const = 0;
    /// For people: family, formats, threads, packed file.
    virtual std::string describe() const = 0;

    /// Starts a step. Entries within the options' bounds (CHECKed); at least one token each.
    virtual Ticket launch(Batch batch, LayersDone layers_done = {}, StepDone done = {}) = 0;
    /// Whether the step has ended. Does not wait.
    virtual bool ready(Ticket ticket) const = 0;
    /// Waits for the step until `deadline` (by the steady clock) or until `stop` is requested: then deadline_exceeded
    /// or cancelled, and the ticket stays open, to be collected later. Every other outcome closes it. A step that has
    /// ended is given whatever deadline and stop say. What concerns one sequence stands in its entry; an error here
    /// concerns all: invalid_argument for a token outside the vocabulary, resource_exhausted or aborted where the
    /// device has refused this step (the engine stays usable); internal: the device is lost, every later step fails
    /// too, only a new process helps.
    virtual base::Result<StepResult> collect(Ticket ticket, base::TimePoint deadline,
                                             const std::stop_token& stop = {}) = 0;

    /// Takes tokens of a sequence back: all that the engine keeps of it is as if it had never had more than its first
    /// `tokens`, so its next entry may begin there, with other tokens (guesses that were rejected). While no ticket is
    /// open. What an engine keeps: KV of full attention lies in the blocks, which every entry names anew and of which
    /// positions behind an entry's last token are never read; so such an engine keeps nothing, and the caller takes
    /// back KV (kv_cache::SequenceKv::truncate(): not into a published block). State of recurrent layers would be kept
    /// here. Error: unimplemented where the state before those tokens is gone.
    virtual base::Result<void> truncate(base::SequenceId sequence, std::uint32_t tokens) = 0;
};

/// launch() and collect() in one, for who has nothing to do meanwhile: warm-up, benchmarks, tests. Waits at most ten
/// minutes. Error: as collect().
base::Result<StepResult> run_to_end(Engine& engine, Batch batch, LayersDone layers_done = {});

/// Maps the checkpoint, packs the weights unless a packed file of the same content exists, allocates the KV store.
/// A sentence encoder (read_encoder_config()) runs on the host, takes no KV pool, and has to find room for its longest
/// text in batch_tokens_max.
/// `progress(done, total)` bytes, called from this thread. Error: names the field of config.json or the tensor that is
/// wrong.
base::Result<std::unique_ptr<Engine>> load_engine(
    const EngineOptions& options, const std::function<void(std::uint64_t, std::uint64_t)>& progress = {});

}  // namespace engine
