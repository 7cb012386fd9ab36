#include "engine/model/packed_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/crc32c.h"
#include "base/log.h"
#include "base/parallel.h"
#include "engine/model/packed_sections.h"
#include "engine/model/read_file.h"
#include "engine/model/user_folder.h"
#include "engine/model/weight_check.h"
#include "engine/model/weight_rows.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
using base::BlockHash;
using base::ErrorCode;
using base::Result;

/// First page of a packed file, little-endian.
struct Header {
    std::array<char, 8> magic = {'S', 'L', 'U', 'I', 'C', 'E', 'P', 'K'};
    std::uint32_t version = kPackingVersion;
    std::uint32_t format = 0;
    std::uint64_t file_bytes = 0;
    BlockHash content;
    BlockHash plan;
    std::uint32_t checksums_crc = 0;  // CRC-32C of the table behind the items
    std::uint32_t crc = 0;            // CRC-32C of what comes before
};
static_assert(std::is_trivially_copyable_v<Header> && sizeof(Header) == 64 && sizeof(Header) <= kPackedAlignment);

std::uint32_t header_crc(const Header& header) {
    return base::crc32c(std::as_bytes(std::span(&header, 1)).first(offsetof(Header, crc)));
}

std::string hex(const BlockHash& hash) {
    std::array<char, 33> text{};
    std::snprintf(text.data(), text.size(), "%016llx%016llx", static_cast<unsigned long long>(hash.high),
                  static_cast<unsigned long long>(hash.low));
    return text.data();
}

std::optional<BlockHash> parse_hex(std::string_view text) {
    if (text.size() < 32) { return std::nullopt; }
    const auto key = base::parse_hash_key(text.substr(0, 32));  // the same 32 digits
    if (!key) { return std::nullopt; }
    BlockHash hash;
    for (std::size_t i = 0; i < 8; ++i) {
        hash.high = hash.high << 8 | std::to_integer<std::uint64_t>(key->bytes[i]);
        hash.low = hash.low << 8 | std::to_integer<std::uint64_t>(key->bytes[i + 8]);
    }
    return hash;
}

/// An open file that closes itself.
class Descriptor {
public:
    explicit Descriptor(int number) : number_(number) {}
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    ~Descriptor() {
        if (number_ >= 0) { ::close(number_); }
    }
    int number() const { return number_; }

private:
    int number_;
};

Result<void> write_at(int file, std::span<const std::byte> data, std::uint64_t offset, const fs::path& path) {
    while (!data.empty()) {
        const ::ssize_t done = ::pwrite(file, data.data(), data.size(), static_cast<::off_t>(offset));
        if (done < 0 && errno == EINTR) { continue; }
        if (done <= 0) { return tl::unexpected(system_error("write", path, done == 0 ? ENOSPC : errno)); }
        data = data.subspan(static_cast<std::size_t>(done));
        offset += static_cast<std::uint64_t>(done);
    }
    return {};
}

/// Renames a finished temporary file into place so that it survives a crash of the machine.
Result<void> publish(int file, const fs::path& temporary, const fs::path& target) {
    if (::fsync(file) != 0) { return tl::unexpected(system_error("fsync", temporary, errno)); }
    if (::rename(temporary.c_str(), target.c_str()) != 0) {
        return tl::unexpected(system_error("rename to", target, errno));
    }
    const Descriptor dir(::open(target.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (dir.number() >= 0) { ::fsync(dir.number()); }
    return {};
}

/// Of a tensor's bytes, which need not all be in memory at a time.
BlockHash hash_bytes(const Checkpoint& checkpoint, const Tensor& tensor) {
    constexpr std::size_t kPieceBytes = 8u << 20;
    base::KeyedHasher hasher({});
    for (std::size_t at = 0; at < tensor.bytes.size(); at += kPieceBytes) {
        const auto piece = tensor.bytes.subspan(at, std::min(kPieceBytes, tensor.bytes.size() - at));
        hasher.add(piece);
        checkpoint.let_go(piece);
    }
    return hasher.finish();
}

/// Of everything that the plan takes from the checkpoint; reads all of it.
BlockHash hash_content(const Checkpoint& checkpoint, const PackingPlan& plan) {
    std::vector<std::pair<std::string, const Tensor*>> tensors;
    const auto add = [&tensors](const std::string& name, const Tensor& tensor) { tensors.emplace_back(name, &tensor); };
    for (const PackedItem& item : plan.items) {
        for (const auto& source : item.sources) {
            const Tensor* tensor = checkpoint.find(source.tensor);
            CHECK(tensor != nullptr, source.tensor);
            add(source.tensor, *tensor);
            const Tensor* scales = tensor->dtype == "F8_E4M3" ? find_scales(checkpoint, source.tensor) : nullptr;
            if (scales != nullptr) { add(source.tensor + "_scale", *scales); }
        }
    }
    std::vector<BlockHash> hashes(tensors.size());
    base::parallel_for(tensors.size(), [&](std::size_t i) { hashes[i] = hash_bytes(checkpoint, *tensors[i].second); });
    std::string lines;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const auto& [name, tensor] = tensors[i];
        lines += name + " " + tensor->dtype + format_shape(tensor->shape) + " ";
        if (tensor->pair_heads > 0) { lines += "pairs in " + std::to_string(tensor->pair_heads) + " heads "; }
        lines += hex(hashes[i]) + "\n";
    }
    return base::keyed_hash({}, std::as_bytes(std::span(lines)));
}

/// Writes the packed form of one checkpoint into an open file.
class Packer {
public:
    Packer(const Checkpoint& checkpoint, const PackingPlan& plan, int file, const fs::path& path,
           const std::function<void(std::uint64_t, std::uint64_t)>& progress)
        : checkpoint_(checkpoint), plan_(plan), file_(file), path_(path), progress_(progress) {}

    /// Error: as write_at().
    Result<void> run(const BlockHash& content) {
        for (const PackedItem& item : plan_.items) {
            const std::vector<SourceTensor> tensors = tensors_of(checkpoint_, item);
            checksums_.push_back(0);
            const auto done = item.inputs == 0 ? pack_vector(item, tensors) : pack_rows(item, tensors);
            if (!done) { return base::pass_on(done); }
            report(item.offset + item.bytes);
        }
        Header header;
        header.format = static_cast<std::uint32_t>(plan_.format);
        header.file_bytes = packed_file_bytes(plan_);
        header.content = content;
        header.plan = plan_.fingerprint();
        const auto table = std::as_bytes(std::span<const std::uint32_t>(checksums_));
        header.checksums_crc = base::crc32c(table);
        if (auto done = write_at(file_, table, plan_.file_bytes, path_); !done) { return done; }
        header.crc = header_crc(header);
        return write_at(file_, std::as_bytes(std::span(&header, 1)), 0, path_);
    }

private:
    void report(std::uint64_t done) const {
        if (progress_) { progress_(done, plan_.file_bytes); }
    }

    Result<void> pack_vector(const PackedItem& item, std::span<const SourceTensor> tensors) {
        std::vector<float> values(item.outputs);
        read_vector(tensors, values);
        const auto bytes = std::as_bytes(std::span(values));
        if (auto good = check_weights(checkpoint_, item, tensors, 0, bytes, SourceFormat::f32); !good) { return good; }
        return write(bytes, item.offset);
    }

    /// The next part of the item whose checksum is the last one.
    Result<void> write(std::span<const std::byte> part, std::uint64_t offset) {
        checksums_.back() = base::crc32c(part, checksums_.back());
        return write_at(file_, part, offset, path_);
    }

    /// Panels of some megabytes at a time. Rows are copied first: a panel may cross from one tensor into the next, and
    /// the file aligns nothing.
    Result<void> pack_rows(const PackedItem& item, std::span<const SourceTensor> tensors) {
        constexpr std::size_t kStageBytes = 4u << 20;
        const SourceFormat stage_format = common_format(tensors);
        const std::size_t row_bytes = item.inputs * element_bytes(stage_format);
        const auto rows_max = static_cast<std::uint32_t>(std::max<std::size_t>(kStageBytes / row_bytes / 16, 1) * 16);

        for (std::uint32_t begin = 0; begin < item.outputs; begin += rows_max) {
            const std::uint32_t rows = std::min(rows_max, item.outputs - begin);
            stage_.resize((rows * row_bytes + 63) / 64 * 64);
            read_rows(item, tensors, begin, rows, stage_format, stage_.data());
            const auto read = std::span<const std::byte>(stage_).first(rows * row_bytes);
            if (auto good = check_weights(checkpoint_, item, tensors, begin, read, stage_format); !good) {
                return good;
            }
            packed_.resize(packed_bytes(plan_.format, rows, item.inputs));
            pack_matrix(stage_format, stage_.data(), rows, item.inputs, plan_.format, packed_.data());
            const std::uint64_t offset = item.offset + packed_bytes(plan_.format, begin, item.inputs);
            if (auto done = write(packed_, offset); !done) { return done; }
            for (const SourceTensor& tensor : tensors) {  // what was read is not needed, what comes is read in again
                checkpoint_.let_go(tensor.data->bytes);
            }
            report(offset + packed_.size());
        }
        return {};
    }

    const Checkpoint& checkpoint_;
    const PackingPlan& plan_;
    int file_;
    const fs::path& path_;
    const std::function<void(std::uint64_t, std::uint64_t)>& progress_;
    std::vector<std::byte> stage_;
    std::vector<std::byte> packed_;
    SectionChecksums checksums_;
};

/// Names of the files of one checkpoint in one folder.
class PackedFolder {
public:
    PackedFolder(const Checkpoint& checkpoint, const PackingPlan& plan, const std::string& dir)
        : plan_(plan),
          dir_(dir),
          identity_(hex(base::keyed_hash({}, std::as_bytes(std::span(checkpoint.identity()))))) {}

    /// Remembers the content hash of files whose identity has not changed since they were read.
    fs::path sidecar() const { return dir_ / (identity_ + ".content"); }
    fs::path lock() const { return dir_ / (identity_ + "-" + std::string(name_of(plan_.format)) + ".lock"); }
    fs::path temporary() const { return dir_ / (identity_ + "-" + std::string(name_of(plan_.format)) + ".partial"); }
    fs::path packed(const BlockHash& content, std::uint32_t version = kPackingVersion) const {
        return dir_ /
               (hex(content) + "-" + std::string(name_of(plan_.format)) + "-v" + std::to_string(version) + ".weights");
    }

    /// The finished file of known files, if there is one.
    std::optional<PackedFile> find() const {
        const auto text = read_file(sidecar(), 64);
        if (!text) { return std::nullopt; }
        const auto content = parse_hex(*text);
        return content ? find(*content) : std::nullopt;
    }

    /// The finished file of a content, if there is one and it is what the plan says.
    std::optional<PackedFile> find(const BlockHash& content) const {
        const fs::path path = packed(content);
        auto lock = PackedLock::in_use(path);
        if (!lock) { return std::nullopt; }
        auto file = base::MappedFile::open(path);
        if (!file || file->bytes().size() != packed_file_bytes(plan_)) { return std::nullopt; }
        Header header;
        std::memcpy(&header, file->bytes().data(), sizeof header);
        const Header expected;
        if (header.magic != expected.magic || header.crc != header_crc(header) || header.version != kPackingVersion ||
            header.format != static_cast<std::uint32_t>(plan_.format) ||
            header.file_bytes != packed_file_bytes(plan_) || header.content != content ||
            header.plan != plan_.fingerprint() ||
            header.checksums_crc != base::crc32c(checksum_table(file->bytes(), plan_))) {
            return std::nullopt;
        }
        return PackedFile{std::move(*file), content, path.string(), false, std::move(*lock)};
    }

    /// Files of older versions that nobody uses are in the way.
    void remove_older(const BlockHash& content) const {
        for (std::uint32_t version = 1; version < kPackingVersion; ++version) {
            const fs::path path = packed(content, version);
            std::error_code ignored;
            if (PackedLock::alone(path)) { fs::remove(path, ignored); }
        }
    }

private:
    const PackingPlan& plan_;
    fs::path dir_;
    std::string identity_;
};

/// Waits for the lock; the system gives it back when its holder dies.
Result<void> take_lock(int file, const fs::path& path) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::minutes(30);
    while (::flock(file, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR) { return tl::unexpected(system_error("lock", path, errno)); }
        if (std::chrono::steady_clock::now() > deadline) {
            return base::fail(ErrorCode::deadline_exceeded,
                              "another process has held " + path.string() + " for half an hour");
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return {};
}

Result<void> write_sidecar(const PackedFolder& folder, const BlockHash& content) {
    // A name of our own: engines of another format hold another lock.
    const fs::path temporary = folder.sidecar().string() + "." + std::to_string(::getpid()) + ".partial";
    const Descriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (file.number() < 0) { return tl::unexpected(system_error("create", temporary, errno)); }
    const std::string text = hex(content) + "\n";
    if (auto done = write_at(file.number(), std::as_bytes(std::span(text)), 0, temporary); !done) { return done; }
    return publish(file.number(), temporary, folder.sidecar());
}

Result<void> pack(const Checkpoint& checkpoint, const PackingPlan& plan, const PackedFolder& folder,
                  const BlockHash& content, const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
    const fs::path temporary = folder.temporary();  // whoever holds the lock owns it, also a dead packer's rest
    const Descriptor file(::open(temporary.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    if (file.number() < 0) { return tl::unexpected(system_error("create", temporary, errno)); }
    const auto give_up = [&](const base::Error& error) {
        ::unlink(temporary.c_str());
        return base::fail(error.code,
                          "packing the weights (" + std::to_string(plan.file_bytes) + " bytes): " + error.message);
    };
    // All of the room at once: a full disk is told now, and never as a SIGBUS. Not every file system can.
    const auto file_bytes = static_cast<::off_t>(packed_file_bytes(plan));
    if (::fallocate(file.number(), 0, 0, file_bytes) != 0 && errno != EOPNOTSUPP) {
        return give_up(system_error("reserve room in", temporary, errno));
    }
    if (::ftruncate(file.number(), file_bytes) != 0) { return give_up(system_error("resize", temporary, errno)); }
    auto done = Packer(checkpoint, plan, file.number(), temporary, progress).run(content);
    if (done) { done = publish(file.number(), temporary, folder.packed(content)); }
    if (!done) { return give_up(done.error()); }
    return {};
}

/// Page tables now instead of in the first step; huge pages where the file system has them. Hints only.
void warm(std::span<const std::byte> bytes) {
    void* begin = const_cast<std::byte*>(bytes.data());
    ::madvise(begin, bytes.size(), MADV_HUGEPAGE);
    ::madvise(begin, bytes.size(), MADV_WILLNEED);
#ifdef MADV_POPULATE_READ
    ::madvise(begin, bytes.size(), MADV_POPULATE_READ);
#endif
}

/// The parts of a file that are not as they were written. Here rather than in the background: warm() reads the file
/// anyway, and no step ever runs on weights that nobody has looked at.
std::vector<std::string> damage_of(const PackedFile& packed, const PackingPlan& plan) {
    warm(packed.file.bytes());
    return find_damaged_sections(packed.file.bytes(), plan);
}

/// Whether `path` still names the file that is mapped; another process may have put a new one there.
bool is_same_file(const PackedFile& packed) {
    struct ::stat mapped{};
    struct ::stat named{};
    return packed.lock.status(mapped) && ::stat(packed.path.c_str(), &named) == 0 && mapped.st_ino == named.st_ino &&
           mapped.st_dev == named.st_dev;
}

/// `found`, or nothing where it is damaged: then a person is told, and the file is gone. Under the lock of the folder.
std::optional<PackedFile> intact(std::optional<PackedFile> found, const PackingPlan& plan) {
    if (!found) { return found; }
    const std::vector<std::string> damaged = damage_of(*found, plan);
    if (damaged.empty()) { return found; }
    spdlog::warn("{}: the packed weights are damaged in {}{}; they are packed again from the model's own files",
                 found->path, damaged.front(),
                 damaged.size() > 1 ? " and " + std::to_string(damaged.size() - 1) + " more of " +
                                          std::to_string(plan.items.size()) + " parts"
                                    : "");
    if (is_same_file(*found)) { ::unlink(found->path.c_str()); }
    return std::nullopt;
}

}  // namespace

Result<PackedFile> open_packed_file(const Checkpoint& checkpoint, const PackingPlan& plan,
                                    const std::string& packed_dir,
                                    const std::function<void(std::uint64_t, std::uint64_t)>& progress,
                                    std::uint64_t packed_bytes_max) {
    const PackedFolder folder(checkpoint, plan, packed_dir);
    std::optional<PackedFile> found = folder.find();
    if (found && !damage_of(*found, plan).empty()) { found.reset(); }
    if (!found) {
        const fs::path lock_path = folder.lock();
        const Descriptor lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
        if (lock.number() < 0) { return tl::unexpected(system_error("create", lock_path, errno)); }
        if (auto locked = take_lock(lock.number(), lock_path); !locked) { return base::pass_on(locked); }
        found = intact(folder.find(), plan);  // somebody else may have packed it meanwhile
        if (!found) {
            const BlockHash content = hash_content(checkpoint, plan);
            found = intact(folder.find(content), plan);  // of a copy of these files
            if (!found) {
                const std::uint64_t bytes = packed_file_bytes(plan);
                const std::uint64_t for_others = packed_bytes_max - std::min(packed_bytes_max, bytes);
                if (const auto pruned = prune_packed(packed_dir, for_others); pruned && !pruned->removed.empty()) {
                    spdlog::info("{}: {} packed files that were not used for longest made room", packed_dir,
                                 pruned->removed.size());
                }
                auto packed = pack(checkpoint, plan, folder, content, progress);
                if (!packed) { return base::pass_on(packed); }
                found = folder.find(content);
                if (!found) {
                    return base::fail(ErrorCode::internal,
                                      "the weights packed just now are not to be found in " + packed_dir);
                }
                found->packed_now = true;
                folder.remove_older(content);
                warm(found->file.bytes());
            }
            if (auto done = write_sidecar(folder, content); !done) { return base::pass_on(done); }
        }
    }
    if (progress) { progress(plan.file_bytes, plan.file_bytes); }
    return std::move(*found);
}

Result<BlockHash> content_of(const Checkpoint& checkpoint, const PackingPlan& plan, const std::string& packed_dir) {
    const PackedFolder folder(checkpoint, plan, packed_dir);
    const auto remembered = [&folder]() -> std::optional<BlockHash> {
        const auto text = read_file(folder.sidecar(), 64);
        return text ? parse_hex(*text) : std::nullopt;
    };
    if (const auto known = remembered()) { return *known; }
    const fs::path lock_path = folder.lock();
    const Descriptor lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (lock.number() < 0) { return tl::unexpected(system_error("create", lock_path, errno)); }
    if (auto locked = take_lock(lock.number(), lock_path); !locked) { return base::pass_on(locked); }
    if (const auto known = remembered()) { return *known; }  // somebody else has read everything meanwhile
    const BlockHash content = hash_content(checkpoint, plan);
    if (auto done = write_sidecar(folder, content); !done) { return base::pass_on(done); }
    return content;
}

Result<std::string> prepare_packed_dir(const std::string& packed_dir) {
    constexpr const char* kSetting = "engine.packed_dir";
    if (!packed_dir.empty()) {
        if (auto made = make_user_folder(packed_dir, kSetting); !made) { return base::pass_on(made); }
        return packed_dir;
    }
    const auto variable = [](const char* name) {
        const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody sets variables meanwhile
        return fs::path(value == nullptr ? "" : value);
    };
    fs::path usual;
    if (const fs::path cache = variable("XDG_CACHE_HOME"); cache.is_absolute()) {  // a relative one is to be ignored
        usual = cache / "sluice";
    } else if (const fs::path home = variable("HOME"); home.is_absolute()) {
        usual = home / ".cache" / "sluice";
    }
    auto folder = usual_or_temporary(usual, "neither XDG_CACHE_HOME nor HOME names a folder", "cache", kSetting);
    if (!folder) { return base::pass_on(folder); }
    if (!folder->warning.empty()) { spdlog::warn("packed weights: {}", folder->warning); }
    return folder->path.string();
}

}  // namespace engine
