#include "cli/model/zip_file.h"

#include <zip.h>

#include <sys/stat.h>

#include <map>
#include <utility>

#include "cli/model/source.h"

namespace cli::model {
namespace {

using base::ErrorCode;
using base::Result;

constexpr zip_int64_t kMembers = 100'000;
constexpr std::size_t kPieceBytes = std::size_t{256} << 10;

struct Member {
    zip_uint64_t index = 0;
    std::uint64_t bytes = 0;
};

bool is_plain_file(zip_t* archive, zip_uint64_t index) {
    zip_uint8_t system = 0;
    zip_uint32_t attributes = 0;
    if (zip_file_get_external_attributes(archive, index, 0, &system, &attributes) != 0) { return false; }
    const auto mode = static_cast<mode_t>(attributes >> 16);
    return system != ZIP_OPSYS_UNIX || (mode & S_IFMT) == 0 || S_ISREG(mode);  // links and devices are not offered
}

}  // namespace

struct ZipFile::State {
    std::string path;
    zip_t* archive = nullptr;
    std::map<std::string, Member, std::less<>> by_path;
    std::vector<std::string> paths;

    State() = default;
    State(const State&) = delete;
    State& operator=(const State&) = delete;
    ~State() {
        if (archive != nullptr) { zip_discard(archive); }
    }
};

ZipFile::ZipFile(std::unique_ptr<State> state) : state_(std::move(state)) {}
ZipFile::~ZipFile() = default;
ZipFile::ZipFile(ZipFile&&) noexcept = default;
ZipFile& ZipFile::operator=(ZipFile&&) noexcept = default;

Result<ZipFile> ZipFile::open(const std::filesystem::path& path) {
    auto state = std::make_unique<State>();
    state->path = path.string();
    int code = 0;
    state->archive = zip_open(path.c_str(), ZIP_RDONLY | ZIP_CHECKCONS, &code);
    if (state->archive == nullptr) {
        zip_error_t error;
        zip_error_init_with_code(&error, code);
        const std::string message = zip_error_strerror(&error);
        zip_error_fini(&error);
        return base::fail(code == ZIP_ER_NOENT ? ErrorCode::not_found : ErrorCode::data_loss,
                          path.string() + " is no zip that can be read: " + message);
    }
    const zip_int64_t count = zip_get_num_entries(state->archive, 0);
    if (count > kMembers) {
        return base::fail(ErrorCode::data_loss, path.string() + " has " + std::to_string(count) + " members");
    }
    for (zip_int64_t i = 0; i < count; ++i) {
        const auto index = static_cast<zip_uint64_t>(i);
        zip_stat_t status;
        if (zip_stat_index(state->archive, index, 0, &status) != 0) { continue; }
        constexpr zip_uint64_t kNeeded = ZIP_STAT_NAME | ZIP_STAT_SIZE;
        if ((status.valid & kNeeded) != kNeeded || !check_inner_path(status.name)) { continue; }
        if (!is_plain_file(state->archive, index)) { continue; }
        if (state->by_path.emplace(status.name, Member{index, status.size}).second) {
            state->paths.emplace_back(status.name);
        }
    }
    return ZipFile(std::move(state));
}

const std::vector<std::string>& ZipFile::members() const {
    return state_->paths;
}

Result<std::uint64_t> ZipFile::bytes_of(std::string_view member) const {
    const auto at = state_->by_path.find(member);
    if (at == state_->by_path.end()) {
        return base::fail(ErrorCode::not_found, "there is no " + std::string(member) + " in " + state_->path);
    }
    return at->second.bytes;
}

Result<void> ZipFile::read(std::string_view member,
                           const std::function<Result<void>(std::span<const std::byte>)>& on_bytes) const {
    const auto bytes = bytes_of(member);
    if (!bytes) { return base::pass_on(bytes); }
    const auto broken = [&](const std::string& why) {
        return base::fail(ErrorCode::data_loss, std::string(member) + " in " + state_->path + ": " + why);
    };
    const auto close = [](zip_file_t* file) { zip_fclose(file); };
    const std::unique_ptr<zip_file_t, decltype(close)> file(
        zip_fopen_index(state_->archive, state_->by_path.find(member)->second.index, 0), close);
    if (file == nullptr) { return broken(zip_strerror(state_->archive)); }
    std::vector<std::byte> piece(kPieceBytes);
    std::uint64_t done = 0;
    while (true) {
        const zip_int64_t count = zip_fread(file.get(), piece.data(), piece.size());
        if (count < 0) { return broken(zip_error_strerror(zip_file_get_error(file.get()))); }
        if (count == 0) { break; }
        done += static_cast<std::uint64_t>(count);
        if (done > *bytes) { return broken("longer than the " + std::to_string(*bytes) + " bytes announced"); }
        if (auto taken = on_bytes(std::span(piece).first(static_cast<std::size_t>(count))); !taken) { return taken; }
    }
    if (done != *bytes) {
        return broken("ends after " + std::to_string(done) + " of " + std::to_string(*bytes) + " bytes");
    }
    return {};
}

Result<std::string> ZipFile::read_text(std::string_view member, std::size_t bytes_max) const {
    const auto bytes = bytes_of(member);
    if (!bytes) { return base::pass_on(bytes); }
    if (*bytes > bytes_max) {
        return base::fail(ErrorCode::resource_exhausted,
                          std::string(member) + " in " + state_->path + " has " + std::to_string(*bytes) + " bytes");
    }
    std::string text;
    const auto read_all = read(member, [&text](std::span<const std::byte> piece) -> Result<void> {
        text.append(reinterpret_cast<const char*>(piece.data()), piece.size());
        return {};
    });
    if (!read_all) { return base::pass_on(read_all); }
    return text;
}

}  // namespace cli::model
