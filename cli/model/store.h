#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/model/manifest.h"
#include "cli/model/part_file.h"
#include "cli/model/stop.h"

namespace cli::model {

/// A finished model of the store.
struct StoredModel {
    Manifest manifest;
    std::filesystem::path folder;

    /// What is opened: the folder, or the GGUF file in it.
    std::filesystem::path path() const;
};

/// What an interrupted pull has left.
struct Unfinished {
    std::string name;
    std::uint64_t bytes = 0;
};

/// The models of one user: a folder for each with its manifest. A model is put together in `.partial/NAME` beside them
/// and renamed into place when all of it has been checked, so that whoever finds a model finds a whole one. Several
/// processes may use a store at once.
class Store {
public:
    explicit Store(std::filesystem::path folder) : folder_(std::move(folder)) {}

    const std::filesystem::path& folder() const { return folder_; }
    /// Makes the folder where it is missing and tries to write. Error: permission_denied and the like, naming the
    /// folder, the reason and the setting that chooses another.
    base::Result<void> prepare() const;

    /// Empty when there is none of that name. Error: data_loss for a manifest that cannot be read.
    base::Result<std::optional<StoredModel>> find(const std::string& name) const;
    /// By name; those with a manifest that cannot be read are left out.
    std::vector<StoredModel> list() const;
    std::vector<Unfinished> unfinished() const;

    /// Held while a model is pulled or removed; given back when it dies, also with the process.
    class Lock {
    public:
        explicit Lock(Descriptor file) : file_(std::move(file)) {}

    private:
        Descriptor file_;
    };
    /// Waits for another process at most `patience`, calling `on_wait` once before it does. Error: deadline_exceeded,
    /// cancelled; as the system says.
    base::Result<Lock> lock(const std::string& name, std::chrono::seconds patience, const StopAsked& stop_asked,
                            const std::function<void()>& on_wait) const;

    /// Where a model is put together. What is there from an earlier pull is kept if it was for the same files
    /// (`fingerprint`), else removed. The lock must be held. Error: as the system says.
    base::Result<std::filesystem::path> stage(const std::string& name, const std::string& fingerprint) const;
    /// Writes the manifest and renames the stage into place. The lock must be held. Error: as the system says, also
    /// when something that is no model stands there.
    base::Result<StoredModel> publish(const Manifest& manifest) const;
    /// Removes a model and what is left of a pull of it. Whoever has its files open keeps them. The lock must be held.
    /// Error: not_found when there is neither; as the system says.
    base::Result<void> remove(const std::string& name) const;

    /// Bytes that may still be written where the store is; empty when the system does not say.
    std::optional<std::uint64_t> bytes_free() const;

private:
    std::filesystem::path partial(const std::string& name) const { return folder_ / ".partial" / name; }

    std::filesystem::path folder_;
};

/// $SLUICE_MODELS, else sluice/models under $XDG_DATA_HOME, else under ~/.local/share. Absolute.
/// Error: failed_precondition when there is none of the three.
base::Result<std::filesystem::path> store_folder();

/// The same, but where the folder of the last two cannot be made (or there is none) a private one under the system's
/// temporary one, with a warning in the log. Error: as engine::usual_or_temporary().
base::Result<std::filesystem::path> usable_store_folder();

}  // namespace cli::model
