#include "engine/model/safetensors.h"

#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "engine/model/checkpoint.h"
#include "engine/model/weights.h"
#include "tests/engine/support.h"
#include "tests/support/catch.h"

namespace {

using base::ErrorCode;

std::vector<std::byte> file_of(const std::string& header, std::size_t data_bytes) {
    std::vector<std::byte> file(8 + header.size() + data_bytes);
    const std::uint64_t length = header.size();
    std::memcpy(file.data(), &length, 8);
    std::memcpy(file.data() + 8, header.data(), header.size());
    return file;
}

std::string message_of(const std::string& header, std::size_t data_bytes) {
    const std::vector<std::byte> file = file_of(header, data_bytes);
    const auto tensors = engine::parse_safetensors(file, "x.safetensors");
    if (tensors) { return "fine"; }
    REQUIRE(tensors.error().code == ErrorCode::data_loss);
    REQUIRE(tensors.error().message.find("x.safetensors") == 0);
    return tensors.error().message;
}

bool contains(const std::string& text, const std::string& part) {
    INFO(text);
    return text.find(part) != std::string::npos;
}

std::string read_text(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

void write_text(const std::filesystem::path& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
}

}  // namespace

TEST_CASE("a file of two tensors and a scalar is read", "[engine][safetensors]") {
    std::vector<std::byte> file = file_of(
        R"({"__metadata__": {"format": "pt"}, "b": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [8, 20]},
            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "s": {"dtype": "F16", "shape": [], "data_offsets": [20, 22]}})",
        22);
    file[file.size() - 22] = std::byte{42};
    const auto tensors = engine::parse_safetensors(file, "x");
    REQUIRE(tensors);
    REQUIRE(tensors->size() == 3);
    REQUIRE(tensors->at("a").bytes[0] == std::byte{42});
    REQUIRE(tensors->at("a").dtype == "F32");
    REQUIRE(tensors->at("b").shape == std::vector<std::uint64_t>{2, 3});
    REQUIRE(tensors->at("b").bytes.size() == 12);
    REQUIRE(tensors->at("s").shape.empty());
}

TEST_CASE("a tensor that is in a header twice, or in an index, is refused by name", "[engine][safetensors]") {
    const std::string entry = R"({"dtype": "F32", "shape": [1], "data_offsets": [0, 4]})";
    REQUIRE(
        contains(message_of(R"({"t": )" + entry + R"(, "t": )" + entry + "}", 4), "tensor t is in the header twice"));
    const test_engine::TemporaryFolder folder;
    test_engine::write_random_model(folder.path().string(), test_engine::small_shape(), "F32");
    std::filesystem::rename(folder.file("model.safetensors"), folder.file("a.safetensors"));
    write_text(
        folder.file("model.safetensors.index.json"),
        "{\"weight_map\": {\"model.norm.weight\": \"a.safetensors\",\n \"model.norm.weight\": \"b.safetensors\"}}");
    const auto checkpoint = engine::Checkpoint::open(folder.path().string());
    REQUIRE_FALSE(checkpoint);
    REQUIRE(contains(checkpoint.error().message,
                     "model.safetensors.index.json: weight_map has tensor model.norm.weight twice "
                     "(line 2, column 2)"));
}

TEST_CASE("every lie about lengths, offsets and shapes is found", "[engine][safetensors]") {
    const auto tensor = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
        return R"({"t": {"dtype": ")" + dtype + R"(", "shape": )" + shape + R"(, "data_offsets": )" + offsets + "}}";
    };
    REQUIRE(message_of(tensor("F32", "[2]", "[0, 8]"), 8) == "fine");
    REQUIRE(message_of("{}", 0) == "fine");
    REQUIRE(contains(message_of(tensor("F32", "[2]", "[0, 8]"), 7), "inside the 7 bytes"));
    REQUIRE(contains(message_of(tensor("F32", "[2]", "[0, 8]"), 9), "end at byte 8 of the data, the file at 9"));
    REQUIRE(contains(message_of(tensor("F32", "[3]", "[0, 8]"), 8), "span 8 bytes, F32 [3] needs 12"));
    REQUIRE(contains(message_of(tensor("F32", "[2]", "[8, 0]"), 8), "data_offsets"));
    REQUIRE(contains(message_of(tensor("F32", "[2]", "[-8, 0]"), 8), "data_offsets"));
    REQUIRE(contains(message_of(tensor("F32", "[2]", "[0]"), 8), "list of two"));
    REQUIRE(contains(message_of(tensor("F32", "[2]", "[4, 12]"), 12), "leave a gap at byte 0"));
    REQUIRE(contains(message_of(tensor("F32", "[-2]", "[0, 8]"), 8), "not a size"));
    REQUIRE(contains(message_of(tensor("F32", "[2.5]", "[0, 8]"), 8), "not a size"));
    REQUIRE(contains(message_of(tensor("F32", "\"2\"", "[0, 8]"), 8), "shape is missing or not a list"));
    REQUIRE(contains(message_of(tensor("F32", "[4294967296, 4294967296]", "[0, 8]"), 8), "larger than any file"));
    REQUIRE(contains(message_of(tensor("F32", "[1,1,1,1,1,1,1,1,2]", "[0, 8]"), 8), "9 dimensions"));
    REQUIRE(contains(message_of(tensor("Q4", "[2]", "[0, 8]"), 8), "dtype 'Q4' is not known"));
    REQUIRE(contains(message_of(R"({"t": 3})", 0), "not an object"));
    REQUIRE(contains(message_of(R"({"t": {}})", 0), "dtype is missing"));
    REQUIRE(contains(message_of("{", 0), "not valid JSON"));
    REQUIRE(contains(message_of("[]", 0), "does not begin with '{'"));
    REQUIRE(contains(message_of(R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                                    "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}})",
                                12),
                     "overlap at byte 4"));
    std::string deep = R"({"__metadata__": )";
    for (int i = 0; i < 100; ++i) {
        deep += R"({"a":)";
    }
    REQUIRE(contains(message_of(deep, 0), "not valid JSON"));
}

TEST_CASE("a header length beyond the file or the bound is refused before it is used", "[engine][safetensors]") {
    std::vector<std::byte> file(16);
    for (const std::uint64_t length : {std::uint64_t{9}, std::uint64_t{100'000'001}, ~std::uint64_t{0}}) {
        std::memcpy(file.data(), &length, 8);
        REQUIRE(engine::parse_safetensors(file, "x").error().code == ErrorCode::data_loss);
    }
    REQUIRE(engine::parse_safetensors(std::span(file).first(7), "x").error().code == ErrorCode::data_loss);
    REQUIRE(engine::parse_safetensors({}, "x").error().code == ErrorCode::data_loss);
}

TEST_CASE("shards are read as one checkpoint", "[engine][safetensors]") {
    const test_engine::TemporaryFolder folder;
    const auto shape = test_engine::small_shape();
    const auto tensors = engine::random_tensors(shape, "F16", 5);
    REQUIRE(engine::write_checkpoint(folder.file("whole"), shape, tensors, 1u << 30));
    REQUIRE(engine::write_checkpoint(folder.file("cut"), shape, tensors, 20'000));
    REQUIRE(std::filesystem::exists(folder.path() / "cut" / "model.safetensors.index.json"));
    REQUIRE_FALSE(std::filesystem::exists(folder.path() / "cut" / "model.safetensors"));
    const auto whole = engine::Checkpoint::open(folder.file("whole"));
    const auto cut = engine::Checkpoint::open(folder.file("cut"));
    REQUIRE(whole);
    REQUIRE(cut);
    for (const auto& tensor : tensors) {
        const engine::Tensor* a = whole->find(tensor.name);
        const engine::Tensor* b = cut->find(tensor.name);
        REQUIRE(a != nullptr);
        REQUIRE(b != nullptr);
        REQUIRE(a->shape == b->shape);
        REQUIRE(std::equal(a->bytes.begin(), a->bytes.end(), b->bytes.begin(), b->bytes.end()));
    }
    REQUIRE(whole->find("nothing") == nullptr);
    REQUIRE(whole->identity() != cut->identity());
}

TEST_CASE("an index that does not fit its folder is refused", "[engine][safetensors]") {
    const test_engine::TemporaryFolder folder;
    const auto shape = test_engine::small_shape();
    REQUIRE(engine::write_checkpoint(folder.path().string(), shape, engine::random_tensors(shape, "F32", 5), 50'000));
    const auto index_path = folder.path() / "model.safetensors.index.json";
    const std::string index = read_text(index_path);
    const auto message = [&] {
        const auto checkpoint = engine::Checkpoint::open(folder.path().string());
        return checkpoint ? std::string("fine") : checkpoint.error().message;
    };
    const auto with = [&](const std::string& from, const std::string& to) {
        std::string changed = index;
        changed.replace(changed.find(from), from.size(), to);
        write_text(index_path, changed);
        return message();
    };
    REQUIRE(message() == "fine");
    REQUIRE(contains(with("model-00001", "../model-00001"), "not a file of this folder"));
    REQUIRE(contains(with("model-00001", "model-99999"), "model-99999"));
    REQUIRE(
        contains(with("model.embed_tokens.weight", "model.embed.weight"), "says that tensor model.embed.weight is in"));
    REQUIRE(contains(with("weight_map", "weights"), "weight_map is missing"));
    REQUIRE(contains(with("{", "["), "not valid JSON"));
    std::filesystem::remove(index_path);
    REQUIRE(contains(message(), "neither model.safetensors nor model.safetensors.index.json"));
}

TEST_CASE("a missing, misshapen or foreign tensor is named", "[engine][safetensors]") {
    const test_engine::TemporaryFolder folder;
    auto shape = test_engine::small_shape();
    const auto check = [&](const std::vector<engine::TensorToWrite>& tensors) {
        REQUIRE(engine::write_checkpoint(folder.path().string(), shape, tensors, 1u << 30));
        const auto checkpoint = engine::Checkpoint::open(folder.path().string());
        REQUIRE(checkpoint);
        const auto checked = engine::check_tensors(*checkpoint, engine::plan_packing(shape, engine::WeightFormat::f32));
        return checked ? std::string("fine") : checked.error().message;
    };
    const auto tensors = engine::random_tensors(shape, "F32", 5);
    REQUIRE(check(tensors) == "fine");
    const auto k_proj = std::find_if(tensors.begin(), tensors.end(), [](const auto& tensor) {
        return tensor.name == "model.layers.1.self_attn.k_proj.weight";
    });
    auto spoilt = tensors;
    auto& changed = spoilt[static_cast<std::size_t>(k_proj - tensors.begin())];
    changed.shape = {64, 32};
    REQUIRE(contains(check(spoilt),
                     "model.layers.1.self_attn.k_proj.weight has shape [64, 32], config.json asks for [32, 64]"));
    spoilt.erase(spoilt.begin() + (k_proj - tensors.begin()));
    REQUIRE(contains(check(spoilt), "lacks tensor model.layers.1.self_attn.k_proj.weight [32, 64]"));
}
