#include "engine/model/packed_file.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "engine/model/packed_sections.h"
#include "engine/model/user_folder.h"
#include "engine/model/weights.h"
#include "tests/engine/support.h"
#include "tests/support/catch.h"

namespace {

using engine::PackedFile;
using engine::WeightFormat;
using test_engine::TemporaryFolder;

struct Setting {
    TemporaryFolder folder;
    base::ModelShape shape = test_engine::small_shape();
    std::string model = folder.file("model");
    std::string packed = folder.file("packed");

    explicit Setting(const std::string& dtype = "F32") {
        test_engine::write_random_model(model, shape, dtype);
        std::filesystem::create_directory(packed);
    }
    base::Result<PackedFile> open(WeightFormat format = WeightFormat::f32,
                                  const std::function<void(std::uint64_t, std::uint64_t)>& progress = {}) const {
        const auto checkpoint = engine::Checkpoint::open(model);
        REQUIRE(checkpoint);
        return engine::open_packed_file(*checkpoint, engine::plan_packing(shape, format), packed, progress);
    }
    std::size_t files(const std::string& ending) const {
        std::size_t count = 0;
        for (const auto& entry : std::filesystem::directory_iterator(packed)) {
            count += entry.path().string().ends_with(ending) ? 1 : 0;
        }
        return count;
    }
};

/// Element (output, input) of a packed f32 matrix.
float element(const engine::PackedMatrix& matrix, std::uint32_t output, std::uint32_t input) {
    const std::size_t index = (std::size_t{output / 16} * matrix.inputs + input) * 16 + output % 16;
    float value = 0;
    std::memcpy(&value, matrix.data + index * sizeof(float), sizeof(float));
    return value;
}

float source_element(const engine::Checkpoint& checkpoint, const std::string& name, std::size_t index) {
    float value = 0;
    std::memcpy(&value, checkpoint.find(name)->bytes.data() + 4 * index, 4);
    return value;
}

}  // namespace

TEST_CASE("many engines at once learn the same content without packing, and remember it", "[engine]") {
    Setting setting;
    const auto checkpoint = engine::Checkpoint::open(setting.model);
    REQUIRE(checkpoint);
    const auto plan = engine::plan_packing(setting.shape, WeightFormat::bf16, engine::WeightOrder::row_major);
    std::vector<base::BlockHash> seen(8);
    std::vector<int> failures(8, 0);
    {
        std::vector<std::jthread> engines;
        for (std::size_t i = 0; i < seen.size(); ++i) {
            engines.emplace_back([&, i] {
                const auto content = engine::content_of(*checkpoint, plan, setting.packed);
                if (content) {
                    seen[i] = *content;
                } else {
                    failures[i] = 1;
                }
            });
        }
    }
    REQUIRE(std::count(failures.begin(), failures.end(), 0) == 8);
    REQUIRE(std::count(seen.begin(), seen.end(), seen[0]) == 8);
    const auto packed = setting.open(WeightFormat::f32);
    REQUIRE(packed);
    REQUIRE(packed->content == seen[0]);
}

TEST_CASE("weights are packed once and mapped from then on", "[engine][packed]") {
    const Setting setting;
    std::uint64_t last = 0;
    std::uint64_t total = 0;
    const auto first = setting.open(WeightFormat::f32, [&](std::uint64_t done, std::uint64_t all) {
        REQUIRE(done >= last);
        REQUIRE(done <= all);
        last = done;
        total = all;
    });
    REQUIRE(first);
    REQUIRE(first->packed_now);
    REQUIRE(last == total);
    REQUIRE(total == engine::plan_packing(setting.shape, WeightFormat::f32).file_bytes);
    const auto second = setting.open();
    REQUIRE(second);
    REQUIRE_FALSE(second->packed_now);
    REQUIRE(second->path == first->path);
    REQUIRE(second->content == first->content);
    const auto other_format = setting.open(WeightFormat::bf16);
    REQUIRE(other_format->packed_now);
    REQUIRE(other_format->path != first->path);
    REQUIRE(other_format->content == first->content);
    REQUIRE(setting.files(".partial") == 0);
    REQUIRE(setting.files(".weights") == 2);
}

TEST_CASE("fused matrices hold the rows of their parts, also where a panel crosses from one into the next",
          "[engine][packed]") {
    const Setting setting;  // gate and up have 100 rows each: the seventh panel of 16 holds both
    const auto packed = setting.open();
    const auto plan = engine::plan_packing(setting.shape, WeightFormat::f32);
    const engine::Weights weights = engine::bind_weights(setting.shape, plan, packed->file.bytes().data());
    const auto checkpoint = engine::Checkpoint::open(setting.model);
    const std::string layer = "model.layers.1.";
    for (std::uint32_t input = 0; input < 64; ++input) {
        for (std::uint32_t row = 0; row < 100; ++row) {
            const engine::PackedMatrix& gate_up = weights.layers[1].gate_up;
            REQUIRE(element(gate_up, row, input) ==
                    source_element(*checkpoint, layer + "mlp.gate_proj.weight", row * 64 + input));
            REQUIRE(element(gate_up, 100 + row, input) ==
                    source_element(*checkpoint, layer + "mlp.up_proj.weight", row * 64 + input));
        }
        for (std::uint32_t row = 0; row < 32; ++row) {
            const engine::PackedMatrix& qkv = weights.layers[1].qkv;
            REQUIRE(element(qkv, row, input) ==
                    source_element(*checkpoint, layer + "self_attn.q_proj.weight", row * 64 + input));
            REQUIRE(element(qkv, 64 + row, input) ==
                    source_element(*checkpoint, layer + "self_attn.k_proj.weight", row * 64 + input));
            REQUIRE(element(qkv, 96 + row, input) ==
                    source_element(*checkpoint, layer + "self_attn.v_proj.weight", row * 64 + input));
        }
    }
    for (std::uint32_t i = 0; i < 64; ++i) {
        REQUIRE(weights.layers[2].mlp_norm[i] ==
                source_element(*checkpoint, "model.layers.2.post_attention_layernorm.weight", i));
    }
    REQUIRE(weights.layers[0].qkv_bias == nullptr);
    REQUIRE(reinterpret_cast<std::uintptr_t>(weights.head.data) % 64 == 0);
}

TEST_CASE("a copy of a checkpoint finds the packed file, another checkpoint does not", "[engine][packed]") {
    const Setting setting;
    const auto first = setting.open();
    std::filesystem::copy(setting.model, setting.folder.file("copy"));
    const auto copy = engine::Checkpoint::open(setting.folder.file("copy"));
    const auto plan = engine::plan_packing(setting.shape, WeightFormat::f32);
    const auto same = engine::open_packed_file(*copy, plan, setting.packed, {});
    REQUIRE_FALSE(same->packed_now);
    REQUIRE(same->path == first->path);

    test_engine::write_random_model(setting.folder.file("other"), setting.shape, "F32", 2);
    const auto other = engine::Checkpoint::open(setting.folder.file("other"));
    const auto different = engine::open_packed_file(*other, plan, setting.packed, {});
    REQUIRE(different->packed_now);
    REQUIRE(different->content != first->content);
}

TEST_CASE("a checkpoint that was rewritten in place is packed again", "[engine][packed]") {
    const Setting setting;
    const auto before = setting.open();
    test_engine::write_random_model(setting.model, setting.shape, "F32", 2);
    const auto after = setting.open();
    REQUIRE(after->packed_now);
    REQUIRE(after->content != before->content);
}

TEST_CASE("a damaged, short or foreign packed file is replaced", "[engine][packed]") {
    const Setting setting;
    const std::string path = setting.open()->path;
    const auto size = std::filesystem::file_size(path);
    SECTION("shorter") {
        std::filesystem::resize_file(path, size - 1);
    }
    SECTION("empty") {
        std::filesystem::resize_file(path, 0);
    }
    SECTION("a header bit") {
        std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
        file.seekp(20);
        file.put('\x55');
    }
    SECTION("gone") {
        std::filesystem::remove(path);
    }
    const auto again = setting.open();
    REQUIRE(again);
    REQUIRE(again->packed_now);
    REQUIRE(std::filesystem::file_size(path) == size);
    REQUIRE_FALSE(setting.open()->packed_now);
}

TEST_CASE("a damaged sidecar costs a hash, nothing else", "[engine][packed]") {
    const Setting setting;
    REQUIRE(setting.open());
    for (const auto& entry : std::filesystem::directory_iterator(setting.packed)) {
        if (entry.path().extension() == ".content") { std::ofstream(entry.path()) << "rubbish"; }
    }
    const auto again = setting.open();
    REQUIRE(again);
    REQUIRE_FALSE(again->packed_now);
}

TEST_CASE("several processes that start together pack once", "[engine][packed]") {
    const Setting setting;
    std::vector<::pid_t> children;
    for (int i = 0; i < 4; ++i) {
        const ::pid_t child = ::fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            const auto checkpoint = engine::Checkpoint::open(setting.model);
            const auto packed = engine::open_packed_file(
                *checkpoint, engine::plan_packing(setting.shape, WeightFormat::f32), setting.packed, {});
            ::_exit(!packed ? 2 : packed->packed_now ? 1 : 0);
        }
        children.push_back(child);
    }
    int packers = 0;
    for (const ::pid_t child : children) {
        int status = 0;
        REQUIRE(::waitpid(child, &status, 0) == child);
        REQUIRE(WIFEXITED(status));
        REQUIRE(WEXITSTATUS(status) < 2);
        packers += WEXITSTATUS(status);
    }
    REQUIRE(packers == 1);
    REQUIRE(setting.files(".weights") == 1);
    REQUIRE(setting.files(".partial") == 0);
}

TEST_CASE("what a packer that was killed has left is taken over", "[engine][packed]") {
    const Setting setting;
    const ::pid_t child = ::fork();
    if (child == 0) {
        const auto checkpoint = engine::Checkpoint::open(setting.model);
        (void)engine::open_packed_file(*checkpoint, engine::plan_packing(setting.shape, WeightFormat::f32),
                                       setting.packed, [](std::uint64_t, std::uint64_t) { ::raise(SIGKILL); });
        ::_exit(0);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));
    REQUIRE(setting.files(".partial") == 1);
    const auto packed = setting.open();
    REQUIRE(packed);
    REQUIRE(packed->packed_now);
    REQUIRE(setting.files(".partial") == 0);
}

TEST_CASE("a full disk is one clear error that leaves nothing behind", "[engine][packed]") {
    const Setting setting;
    // A file size limit stands for the full disk: the same calls fail in the same places (EFBIG instead of ENOSPC).
    const ::pid_t child = ::fork();
    if (child == 0) {
        ::signal(SIGXFSZ, SIG_IGN);
        const ::rlimit limit{100'000, 100'000};
        ::setrlimit(RLIMIT_FSIZE, &limit);
        const auto checkpoint = engine::Checkpoint::open(setting.model);
        const auto packed = engine::open_packed_file(
            *checkpoint, engine::plan_packing(setting.shape, WeightFormat::f32), setting.packed, {});
        const bool right = !packed && packed.error().code == base::ErrorCode::resource_exhausted &&
                           packed.error().message.find(setting.packed) != std::string::npos &&
                           packed.error().message.find("bytes") != std::string::npos;
        ::_exit(right ? 0 : 1);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFEXITED(status));
    REQUIRE(WEXITSTATUS(status) == 0);
    REQUIRE(setting.files(".partial") == 0);
    REQUIRE(setting.files(".weights") == 0);
}

TEST_CASE("the folder for packed files is made for its user only, and a bad one is named", "[engine][packed]") {
    const TemporaryFolder folder;
    const auto made = engine::prepare_packed_dir(folder.file("a/b/c"));
    REQUIRE(made);
    REQUIRE(std::filesystem::is_directory(*made));
    struct ::stat status{};
    REQUIRE(::stat(made->c_str(), &status) == 0);
    REQUIRE((status.st_mode & 0777) == 0700);
    std::ofstream(folder.file("file")) << "x";
    const auto bad = engine::prepare_packed_dir(folder.file("file"));
    REQUIRE_FALSE(bad);
    REQUIRE(bad.error().message.find(folder.file("file")) != std::string::npos);
    const auto inside = engine::prepare_packed_dir(folder.file("file/inside/more"));
    REQUIRE_FALSE(inside);
    CHECK(inside.error().message.find(folder.file("file/inside")) != std::string::npos);
    CHECK(inside.error().message.find("Not a directory") != std::string::npos);
    CHECK(inside.error().message.find("engine.packed_dir") != std::string::npos);
}

TEST_CASE("where the usual folder cannot be made, a private temporary one is used with a warning", "[engine][packed]") {
    const TemporaryFolder folder;
    std::ofstream(folder.file("file")) << "x";
    const std::string temporary = folder.file("tmp");
    std::filesystem::create_directory(temporary);
    const char* old = std::getenv("TMPDIR");
    const std::string kept = old == nullptr ? "" : old;
    const auto restore = [&] { kept.empty() ? ::unsetenv("TMPDIR") : ::setenv("TMPDIR", kept.c_str(), 1); };
    ::setenv("TMPDIR", temporary.c_str(), 1);
    const std::string own = temporary + "/sluice-" + std::to_string(::getuid());

    const auto usual = engine::usual_or_temporary(folder.file("usual/a"), "", "cache", "a.setting");
    const auto blocked = engine::usual_or_temporary(folder.file("file/a"), "", "cache", "a.setting");
    const auto nowhere = engine::usual_or_temporary({}, "HOME is not set", "cache", "a.setting");
    ::chmod(own.c_str(), 0777);  // now anybody could put something there
    const auto open_to_all = engine::usual_or_temporary({}, "HOME is not set", "cache", "a.setting");
    std::filesystem::remove_all(own);
    std::filesystem::create_directory_symlink(folder.path(), own);
    const auto link = engine::usual_or_temporary({}, "HOME is not set", "cache", "a.setting");
    ::setenv("TMPDIR", folder.file("file").c_str(), 1);
    const auto no_temporary = engine::usual_or_temporary({}, "HOME is not set", "cache", "a.setting");
    restore();

    REQUIRE(usual);
    CHECK(usual->path == folder.file("usual/a"));
    CHECK(usual->warning.empty());
    REQUIRE(blocked);
    CHECK(blocked->path == own + "/cache");
    CHECK(blocked->warning.find(folder.file("file")) != std::string::npos);
    CHECK(blocked->warning.find("Not a directory") != std::string::npos);
    CHECK(blocked->warning.find("a.setting") != std::string::npos);
    REQUIRE(nowhere);
    CHECK(nowhere->warning.find("HOME is not set") != std::string::npos);
    for (const auto* refused : {&open_to_all, &link, &no_temporary}) {
        REQUIRE_FALSE(*refused);
        CHECK(refused->error().message.find("a.setting") != std::string::npos);
    }
}

TEST_CASE("packed files go least recently used first, and never one that is in use", "[engine][packed]") {
    const TemporaryFolder folder;
    const std::string packed = folder.file("packed");
    std::filesystem::create_directory(packed);
    std::vector<std::string> names;
    const auto shape = test_engine::small_shape();
    const auto plan = engine::plan_packing(shape, WeightFormat::f32);
    const std::uint64_t bytes_each = engine::packed_file_bytes(plan);
    const auto open = [&](std::uint64_t seed, std::uint64_t bytes_max) {
        const std::string model = folder.file("model" + std::to_string(seed));
        if (!std::filesystem::exists(model)) { test_engine::write_random_model(model, shape, "F32", seed); }
        auto file = engine::open_packed_file(*engine::Checkpoint::open(model), plan, packed, {}, bytes_max);
        REQUIRE(file);
        return std::move(*file);
    };
    const auto age = [&](const std::string& path, long seconds) {  // as if it had been used so long ago
        const std::timespec then{.tv_sec = 1'700'000'000 - seconds, .tv_nsec = 0};
        const std::timespec times[] = {then, then};
        REQUIRE(::utimensat(AT_FDCWD, path.c_str(), times, 0) == 0);
    };
    const auto left = [&] {
        std::size_t count = 0;
        for (const auto& entry : std::filesystem::directory_iterator(packed)) {
            count += entry.path().extension() == ".weights" ? 1 : 0;
        }
        return count;
    };
    for (const std::uint64_t seed : {1u, 2u, 3u}) {
        names.push_back(open(seed, engine::kPackedBytesMax).path);
    }
    age(names[0], 10);
    age(names[1], 30);
    age(names[2], 20);
    const auto entries = engine::list_packed(packed);
    REQUIRE(entries);
    REQUIRE(entries->size() == 3);
    CHECK((*entries)[0].path == names[1]);
    CHECK((*entries)[2].path == names[0]);
    CHECK_FALSE((*entries)[0].is_in_use);

    // A fourth one where three have room: the one that was not used for longest goes.
    const auto fourth = open(4, 3 * bytes_each);
    CHECK(left() == 3);
    CHECK_FALSE(std::filesystem::exists(names[1]));
    {
        const auto used = open(3, engine::kPackedBytesMax);  // the oldest now, but in use
        CHECK(used.path == names[2]);
        age(names[2], 1000);
        CHECK(engine::list_packed(packed)->front().is_in_use);
        const auto pruned = engine::prune_packed(packed, 0);
        REQUIRE(pruned);
        REQUIRE(pruned->removed.size() == 1);
        CHECK(pruned->removed[0].path == names[0]);
        CHECK(pruned->bytes_left == 2 * bytes_each);
        CHECK(used.file.bytes().size() == bytes_each);
        CHECK(std::filesystem::exists(fourth.path));
    }
    // What nobody uses any more goes; a model whose file has gone is packed again.
    REQUIRE(engine::prune_packed(packed, 0)->removed.size() == 1);
    CHECK(left() == 1);
    CHECK(open(1, engine::kPackedBytesMax).packed_now);
}

TEST_CASE("pruning takes what interrupted packers have left, and what was remembered of contents that went",
          "[engine][packed]") {
    Setting setting;
    const std::string path = setting.open()->path;
    CHECK(setting.files(".content") == 1);
    std::ofstream(setting.packed + "/0-f32.partial") << "x";
    std::ofstream(setting.packed + "/0-f32.lock") << "";
    REQUIRE(engine::prune_packed(setting.packed, engine::kPackedBytesMax)->removed.empty());
    CHECK(setting.files(".partial") == 0);
    CHECK(setting.files(".content") == 1);
    REQUIRE(engine::prune_packed(setting.packed, 0)->removed.size() == 1);
    CHECK(setting.files(".content") == 0);
    CHECK_FALSE(std::filesystem::exists(path));
    REQUIRE_FALSE(engine::prune_packed(setting.packed + "/nowhere", 0));
}
