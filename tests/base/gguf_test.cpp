#include "base/gguf.h"

#include <filesystem>
#include <string>
#include <vector>

#include "base/gguf_model.h"
#include "tests/support/catch.h"
#include "tests/support/gguf_writer.h"

namespace {

using base::ErrorCode;
using base::GgufFile;
using base::GgufModel;
using base::GgufType;
using test_gguf::Bytes;
using test_gguf::some_bytes;
using test_gguf::Writer;

bool contains(const base::Error& error, std::string_view part) {
    return error.message.find(part) != std::string::npos;
}

/// A header that says `tensors` and `keys`; what follows is the caller's.
Bytes header(std::uint64_t tensors, std::uint64_t keys) {
    Bytes file;
    file.put_raw("GGUF").put<std::uint32_t>(3).put(tensors).put(keys);
    return file;
}

/// The entry of a tensor.
void put_tensor(Bytes& file, std::string_view name, const std::vector<std::uint64_t>& shape, std::uint32_t type,
                std::uint64_t offset) {
    file.put_text(name).put(static_cast<std::uint32_t>(shape.size()));
    for (const std::uint64_t length : shape) {
        file.put(length);
    }
    file.put(type).put(offset);
}

base::Error refusal(const Bytes& file) {
    const auto parsed = GgufFile::parse(file.bytes(), "x.gguf");
    REQUIRE_FALSE(parsed.has_value());
    CAPTURE(parsed.error().message);
    REQUIRE(contains(parsed.error(), "x.gguf: "));
    REQUIRE(parsed.error().message.size() < 600);
    return parsed.error();
}

class Folder {
public:
    Folder() {
        std::string name = (std::filesystem::temp_directory_path() / "gguf_test.XXXXXX").string();
        REQUIRE(mkdtemp(name.data()) != nullptr);
        path_ = name;
    }
    ~Folder() { std::filesystem::remove_all(path_); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;
    std::filesystem::path operator/(std::string_view name) const { return path_ / name; }

private:
    std::filesystem::path path_;
};

/// Part `number` (from 0) of `count`, with one tensor of its own.
Writer part(std::uint32_t number, std::uint32_t count, std::string_view tensor, std::int32_t tensors_total) {
    Writer writer;
    if (number == 0) { writer.text("general.architecture", "llama"); }
    writer.u16("split.no", static_cast<std::uint16_t>(number)).u16("split.count", static_cast<std::uint16_t>(count));
    writer.i32("split.tensors.count", tensors_total);
    writer.tensor(tensor, {4}, 0, some_bytes(16));
    return writer;
}

}  // namespace

TEST_CASE("a GGUF file's values and tensors are read as they were written", "[base]") {
    const auto version = GENERATE(2u, 3u);
    const auto data = some_bytes(2 * 18);
    const auto floats = some_bytes(12);
    const auto file = Writer()
                          .text("general.architecture", "llama")
                          .u32("llama.block_count", 30)
                          .i32("negative", -5)
                          .f32("llama.rope.freq_base", 1e5f)
                          .boolean("yes", true)
                          .texts("words", {"a", "", "long word"})
                          .i32s("kinds", {1, -2, 3})
                          .f32s("scores", {0.5f})
                          .tensor("w", {64}, 2, data)
                          .tensor("n", {3, 1}, 0, floats)
                          .bytes(version);
    const auto parsed = GgufFile::parse(file, "x.gguf");
    REQUIRE(parsed.has_value());
    REQUIRE(parsed->version == version);
    REQUIRE(parsed->find("general.architecture")->string() == "llama");
    REQUIRE(parsed->find("llama.block_count")->integer() == 30);
    REQUIRE(parsed->find("negative")->integer() == -5);
    REQUIRE(parsed->find("llama.rope.freq_base")->number() == 1e5);
    REQUIRE(parsed->find("llama.block_count")->number() == 30.0);
    REQUIRE(parsed->find("yes")->boolean() == true);
    REQUIRE(parsed->find("words")->strings() == std::vector<std::string_view>{"a", "", "long word"});
    REQUIRE(parsed->find("kinds")->integers() == std::vector<std::int64_t>{1, -2, 3});
    REQUIRE(parsed->find("scores")->count() == 1);
    REQUIRE(parsed->find("scores")->item_type() == GgufType::f32);
    REQUIRE(parsed->find("none") == nullptr);
    // What is of another kind is not forced into the one asked for.
    REQUIRE_FALSE(parsed->find("yes")->integer());
    REQUIRE_FALSE(parsed->find("words")->string());
    REQUIRE_FALSE(parsed->find("words")->integers());
    REQUIRE_FALSE(parsed->find("kinds")->strings());
    REQUIRE_FALSE(parsed->find("scores")->integers());
    REQUIRE_FALSE(parsed->find("general.architecture")->number());
    REQUIRE(parsed->find("negative")->shown() == "-5");
    REQUIRE(parsed->find("words")->shown() == "an array of 3");

    const base::GgufTensor& tensor = parsed->tensors.at("w");
    REQUIRE(tensor.type->name == "Q4_0");
    REQUIRE(tensor.shape == std::vector<std::uint64_t>{64});
    REQUIRE(std::equal(tensor.bytes.begin(), tensor.bytes.end(), data.begin(), data.end()));
    const base::GgufTensor& vector = parsed->tensors.at("n");
    REQUIRE(std::equal(vector.bytes.begin(), vector.bytes.end(), floats.begin(), floats.end()));
}

TEST_CASE("general.alignment moves the data of a GGUF file", "[base]") {
    const auto data = some_bytes(16);
    const auto file = Writer().u32("general.alignment", 256).tensor("a", {4}, 0, data).bytes(3, 256);
    const auto parsed = GgufFile::parse(file, "x.gguf");
    REQUIRE(parsed.has_value());
    REQUIRE((parsed->tensors.at("a").bytes.data() - file.data()) % 256 == 0);
    for (const std::uint32_t alignment : {0u, 24u, 1u << 30}) {
        const auto refused = GgufFile::parse(Writer().u32("general.alignment", alignment).bytes(), "x.gguf");
        REQUIRE_FALSE(refused.has_value());
        REQUIRE(contains(refused.error(), "general.alignment is " + std::to_string(alignment)));
    }
}

TEST_CASE("a GGUF file without tensors may end with its metadata", "[base]") {
    const auto file = Writer().text("k", "v").bytes();
    REQUIRE(GgufFile::parse(file, "x.gguf").has_value());
}

TEST_CASE("what is no GGUF file of versions 2 and 3 is said to be something else", "[base]") {
    Bytes other;
    other.put_raw("PK\x03\x04 and more");
    REQUIRE(refusal(other).code == ErrorCode::data_loss);
    Bytes old;
    old.put_raw("GGUF").put<std::uint32_t>(1).put<std::uint32_t>(0).put<std::uint32_t>(0);
    REQUIRE(refusal(old).code == ErrorCode::unimplemented);
    REQUIRE(contains(refusal(old), "version 1"));
    Bytes big;
    big.put_raw("GGUF").put<std::uint32_t>(3u << 24).put<std::uint64_t>(0).put<std::uint64_t>(0);
    REQUIRE(refusal(big).code == ErrorCode::unimplemented);
    REQUIRE(contains(refusal(big), "big-endian"));
    Bytes cut;
    cut.put_raw("GGU");
    REQUIRE(refusal(cut).code == ErrorCode::data_loss);
}

TEST_CASE("a GGUF file that ends too early is refused wherever it ends", "[base]") {
    const auto file = Writer()
                          .text("general.architecture", "llama")
                          .texts("words", {"a", "bc"})
                          .u32("n", 1)
                          .tensor("w", {32}, 8, some_bytes(34))
                          .bytes();
    for (std::size_t size = 0; size < file.size(); ++size) {
        CAPTURE(size);
        const std::vector<std::byte> cut(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size));
        REQUIRE_FALSE(GgufFile::parse(cut, "x.gguf").has_value());
    }
}

TEST_CASE("hostile counts and lengths of a GGUF file end in one error", "[base]") {
    constexpr std::uint64_t kHuge = std::uint64_t{1} << 60;
    REQUIRE(contains(refusal(header(kHuge, 0)), "1152921504606846976 tensors"));
    REQUIRE(contains(refusal(header(0, kHuge)), "1152921504606846976 keys"));
    REQUIRE(refusal(header(0, 3)).code == ErrorCode::data_loss);  // no key at all
    REQUIRE(refusal(header(60'000, 0)).code == ErrorCode::data_loss);

    Bytes key = header(0, 1);
    key.put(kHuge);  // the length of the key
    REQUIRE(contains(refusal(key), "key 0"));

    Bytes text = header(0, 1);
    text.put_text("name").put_type(GgufType::string).put(kHuge).put_raw("abc");
    REQUIRE(contains(refusal(text), "key name"));

    for (const GgufType item : {GgufType::string, GgufType::u8, GgufType::f64, GgufType::array}) {
        for (const std::uint64_t count : {kHuge, ~std::uint64_t{0}, std::uint64_t{1000}}) {
            Bytes array = header(0, 1);
            array.put_text("list").put_type(GgufType::array).put_type(item).put(count).put_raw("abcdefgh");
            CAPTURE(count);
            REQUIRE(contains(refusal(array), "key list"));
        }
    }
    Bytes past = header(0, 1);
    past.put_text("list").put_type(GgufType::array).put_type(GgufType::string).put<std::uint64_t>(2);
    past.put_text("a").put<std::uint64_t>(9).put_raw("12345678");
    REQUIRE(contains(refusal(past), "item 1"));

    Bytes type = header(0, 1);
    type.put_text("odd").put<std::uint32_t>(13).put<std::uint64_t>(0);
    REQUIRE(contains(refusal(type), "key odd"));
    Bytes flag = header(0, 1);
    flag.put_text("flag").put_type(GgufType::boolean).put<std::uint8_t>(2);
    REQUIRE(contains(refusal(flag), "key flag"));
    Bytes twice = header(0, 2);
    for (int i = 0; i < 2; ++i) {
        twice.put_text("same").put_type(GgufType::u8).put<std::uint8_t>(1);
    }
    REQUIRE(contains(refusal(twice), "key same stands twice"));
}

TEST_CASE("arrays in arrays are read to a small depth, a million of them side by side, and no deeper", "[base]") {
    Bytes flat = header(0, 1);
    flat.put_text("lists").put_type(GgufType::array).put_type(GgufType::array).put<std::uint64_t>(1'000'000);
    for (int i = 0; i < 1'000'000; ++i) {
        flat.put_type(GgufType::u8).put<std::uint64_t>(0);
    }
    const auto parsed = GgufFile::parse(flat.bytes(), "x.gguf");
    REQUIRE(parsed.has_value());
    REQUIRE(parsed->find("lists")->count() == 1'000'000);
    REQUIRE_FALSE(parsed->find("lists")->integers());

    Bytes deep = header(0, 1);
    deep.put_text("lists").put_type(GgufType::array);
    for (int i = 0; i < 1'000'000; ++i) {
        deep.put_type(GgufType::array).put<std::uint64_t>(1);
    }
    deep.put_type(GgufType::u8).put<std::uint64_t>(0);
    REQUIRE(contains(refusal(deep), "nested"));
}

TEST_CASE("hostile tensors of a GGUF file end in one error that names them", "[base]") {
    const auto refused = [](const std::vector<std::uint64_t>& shape, std::uint32_t type, std::uint64_t offset,
                            std::size_t data_bytes = 64) {
        Bytes file = header(1, 0);
        put_tensor(file, "weights", shape, type, offset);
        file.pad_to(32);
        file.bytes().resize(file.bytes().size() + data_bytes);
        const base::Error error = refusal(file);
        REQUIRE(contains(error, "tensor weights"));
        return error;
    };
    constexpr std::uint64_t kHuge = std::uint64_t{1} << 62;
    REQUIRE(contains(refused({4}, 0, 1), "multiple of 32"));
    REQUIRE(contains(refused({4}, 0, 64), "16 bytes at byte 64"));
    REQUIRE(contains(refused({4}, 0, ~std::uint64_t{31}), "which ends at 64"));
    REQUIRE(contains(refused({17}, 0, 0), "68 bytes"));
    REQUIRE(contains(refused({kHuge, 8}, 0, 0), "larger than any file"));
    REQUIRE(contains(refused({4, kHuge, 4}, 0, 0), "larger than any file"));
    REQUIRE(contains(refused({kHuge}, 27, 0), "larger than any file"));
    REQUIRE(contains(refused({4, 0}, 0, 0), "without elements"));
    REQUIRE(contains(refused({33}, 2, 0), "multiple of 32"));
    REQUIRE(contains(refused({128}, 12, 0), "multiple of 256"));
    REQUIRE(contains(refused({}, 0, 0), "0 dimensions"));
    REQUIRE(contains(refused({1, 1, 1, 1, 1}, 0, 0), "5 dimensions"));
    REQUIRE(refused({4}, 4, 0).code == ErrorCode::unimplemented);  // a type that was taken out of the format
    REQUIRE(refused({4}, 999, 0).code == ErrorCode::unimplemented);

    Bytes overlapping = header(2, 0);
    put_tensor(overlapping, "a", {16}, 0, 32);
    put_tensor(overlapping, "b", {16}, 0, 0);
    overlapping.pad_to(32);
    overlapping.bytes().resize(overlapping.bytes().size() + 128);
    REQUIRE(contains(refusal(overlapping), "tensors b and a overlap at byte 32"));

    Bytes twice = header(2, 0);
    put_tensor(twice, "a", {4}, 0, 0);
    put_tensor(twice, "a", {4}, 0, 32);
    twice.pad_to(32);
    twice.bytes().resize(twice.bytes().size() + 64);
    REQUIRE(contains(refusal(twice), "tensor a stands twice"));

    Bytes name = header(1, 0);
    put_tensor(name, std::string(5000, 'n'), {4}, 0, 0);
    REQUIRE(contains(refusal(name), "the name of tensor 0"));
}

TEST_CASE("any part of a split GGUF model finds the others", "[base]") {
    const Folder folder;
    part(0, 3, "a", 3).write(folder / "m-00001-of-00003.gguf");
    part(1, 3, "b", 3).write(folder / "m-00002-of-00003.gguf");
    part(2, 3, "c", 3).write(folder / "m-00003-of-00003.gguf");
    for (const char* name : {"m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"}) {
        const auto model = GgufModel::open(folder / name);
        REQUIRE(model.has_value());
        REQUIRE(model->files().size() == 3);
        REQUIRE(model->tensors().size() == 3);
        REQUIRE(model->find("general.architecture")->string() == "llama");
        REQUIRE(base::gguf_model_name(folder / name) == "m");
        const auto first = GgufModel::open(folder / name, GgufModel::Parts::first);
        REQUIRE(first.has_value());
        REQUIRE(first->files().size() == 1);
        REQUIRE(first->find("general.architecture")->string() == "llama");
    }
    REQUIRE(base::gguf_model_name("/x/SmolLM2-135M.Q4_1.gguf") == "SmolLM2-135M.Q4_1");
    REQUIRE(base::gguf_model_name("/x/M-00001-of-00002.GGUF") == "M");
    REQUIRE(base::gguf_model_name("m-1-of-2.gguf") == "m-1-of-2");
    REQUIRE(base::gguf_model_name("m-00003-of-00002.gguf") == "m-00003-of-00002");
}

TEST_CASE("parts of a GGUF model that do not belong together are refused by name", "[base]") {
    const Folder folder;
    const auto error_of = [&](const char* name) {
        const auto model = GgufModel::open(folder / name);
        REQUIRE_FALSE(model.has_value());
        CAPTURE(model.error().message);
        return model.error();
    };
    part(0, 2, "a", 2).write(folder / "m-00001-of-00002.gguf");
    REQUIRE(error_of("m-00001-of-00002.gguf").code == ErrorCode::not_found);
    REQUIRE(contains(error_of("m-00001-of-00002.gguf"), "m-00002-of-00002.gguf"));

    // The other part is the first one again: a circle.
    std::filesystem::create_symlink(folder / "m-00001-of-00002.gguf", folder / "m-00002-of-00002.gguf");
    REQUIRE(contains(error_of("m-00001-of-00002.gguf"), "says it is part 1 of 2, its name says 2 of 2"));
    REQUIRE(contains(error_of("m-00002-of-00002.gguf"), "says it is part 1 of 2, its name says 2 of 2"));

    std::filesystem::remove(folder / "m-00002-of-00002.gguf");
    part(1, 3, "b", 2).write(folder / "m-00002-of-00002.gguf");
    REQUIRE(contains(error_of("m-00001-of-00002.gguf"), "part 2 of 3"));
    part(1, 2, "a", 2).write(folder / "m-00002-of-00002.gguf");
    REQUIRE(contains(error_of("m-00001-of-00002.gguf"), "tensor a is in an earlier part too"));
    part(1, 2, "b", 2).write(folder / "m-00002-of-00002.gguf");
    REQUIRE(GgufModel::open(folder / "m-00001-of-00002.gguf").has_value());
    part(0, 2, "a", 7).write(folder / "m-00001-of-00002.gguf");
    REQUIRE(contains(error_of("m-00002-of-00002.gguf"), "split.tensors.count is 7, the parts have 2"));

    part(0, 2, "a", 2).write(folder / "renamed.gguf");
    REQUIRE(contains(error_of("renamed.gguf"), "one of 2 parts"));
    part(0, 60'000, "a", 2).write(folder / "n-00001-of-60000.gguf");
    REQUIRE(contains(error_of("n-00001-of-60000.gguf"), "at most 1024"));
    REQUIRE(error_of("none.gguf").code == ErrorCode::not_found);
}
