#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/block_hash.h"
#include "base/mapped_file.h"
#include "base/result.h"
#include "engine/model/checkpoint.h"
#include "engine/model/packed_cache.h"
#include "engine/model/weights.h"

namespace engine {

/// Raised whenever pack_matrix() or the layout of the file changes; files of older versions are packed again.
inline constexpr std::uint32_t kPackingVersion = 2;

/// The packed weights of a model: one file per machine, mapped read-only by every engine that runs it
/// (docs/decisions/0010-packed-weights.md).
struct PackedFile {
    base::MappedFile file;
    base::BlockHash content;  // of names, dtypes, shapes and all bytes of the tensors that the model uses
    std::string path;
    bool packed_now = false;  // false: an earlier or another engine had packed it
    PackedLock lock;          // prune_packed() leaves the file alone while it lives
};

/// Maps the packed form of the checkpoint, after writing it where `packed_dir` does not have it yet. Safe when several
/// processes do so at once: one packs, the others wait for it. The checkpoint's tensors must have been checked against
/// the plan. `progress(done, total)` in bytes of the packed file, called from this thread.
/// A file of an earlier start is read once, on all processors, and compared with the checksums in it
/// (packed_sections.h): a damaged one is removed with a warning that names its parts, and packed again from the
/// checkpoint. Before it packs it makes room: older files go until all of them fit in `packed_bytes_max`
/// (prune_packed()). Error: data_loss for weights that are no numbers, or absurd (weight_check.h), with file, tensor
/// and element; resource_exhausted when the disk is full, permission_denied, deadline_exceeded when another process has
/// been packing for half an hour, internal; the message names the folder.
base::Result<PackedFile> open_packed_file(const Checkpoint& checkpoint, const PackingPlan& plan,
                                          const std::string& packed_dir,
                                          const std::function<void(std::uint64_t, std::uint64_t)>& progress,
                                          std::uint64_t packed_bytes_max = kPackedBytesMax);

/// What PackedFile::content would be, without packing: remembered in `packed_dir`, else all weights are read.
/// Error: as open_packed_file().
base::Result<base::BlockHash> content_of(const Checkpoint& checkpoint, const PackingPlan& plan,
                                         const std::string& packed_dir);

/// `packed_dir` of the options, or where it is empty $XDG_CACHE_HOME/sluice, else ~/.cache/sluice, and where that
/// cannot be used a folder of this user under the system's temporary one, with a warning in the log. Created when
/// missing, for this user only. Error: permission_denied and others of the system, naming folder, reason and setting.
base::Result<std::string> prepare_packed_dir(const std::string& packed_dir);

}  // namespace engine
