// Tokenizers and templates from the metadata of GGUF files.
#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/gguf_writer.h"
#include "tests/text/text_data.h"
#include "text/model_text.h"
#include "text/tokenizer.h"

namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using test_gguf::Writer;
using text_test::TemporaryFolder;

constexpr std::int32_t kNormal = 1;
constexpr std::int32_t kUnknown = 2;
constexpr std::int32_t kControl = 3;
constexpr std::int32_t kUserDefined = 4;
constexpr std::int32_t kUnused = 5;
constexpr std::int32_t kByte = 6;

std::string utf8(std::uint32_t code) {
    std::string text;
    if (code < 0x80) {
        text.push_back(static_cast<char>(code));
    } else {
        text.push_back(static_cast<char>(0xc0 | code >> 6));
        text.push_back(static_cast<char>(0x80 | (code & 0x3f)));
    }
    return text;
}

/// GPT-2's stand-ins of bytes that do not print.
std::string byte_level(std::string_view bytes) {
    static const std::array<std::string, 256> kChars = [] {
        std::array<std::string, 256> chars;
        std::uint32_t shifted = 256;
        for (std::uint32_t byte = 0; byte < 256; ++byte) {
            const bool prints = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
            chars[byte] = utf8(prints ? byte : shifted++);
        }
        return chars;
    }();
    std::string text;
    for (const char byte : bytes) {
        text += kChars[static_cast<unsigned char>(byte)];
    }
    return text;
}

/// The lists of a byte-level vocabulary.
struct Vocabulary {
    std::vector<std::string> tokens;
    std::vector<std::string> merges;
    std::vector<std::int32_t> types;

    Writer writer(std::string_view pre) const {
        Writer writer;
        writer.text("tokenizer.ggml.model", "gpt2").text("tokenizer.ggml.pre", pre);
        writer.texts("tokenizer.ggml.tokens", tokens).texts("tokenizer.ggml.merges", merges);
        writer.i32s("tokenizer.ggml.token_type", types);
        return writer;
    }
};

/// GPT-2's, from the files of the repository.
const Vocabulary& gpt2() {
    static const Vocabulary vocabulary = [] {
        Vocabulary read;
        const json::value words = text_test::document_of(text_test::own_data() / "vocab.json");
        read.tokens.resize(words.as_object().size());
        read.types.assign(read.tokens.size(), kNormal);
        for (const auto& [text, id] : words.as_object()) {
            read.tokens[id.to_number<std::size_t>()] = std::string(text);
        }
        read.types.back() = kControl;  // <|endoftext|>
        const std::string merges = text_test::bytes_of(text_test::own_data() / "merges.txt");
        for (std::size_t at = 0; at < merges.size();) {
            const std::size_t end = std::min(merges.find('\n', at), merges.size());
            const std::string line = merges.substr(at, end - at);
            if (!line.empty() && line.rfind("#version", 0) != 0) { read.merges.push_back(line); }
            at = end + 1;
        }
        return read;
    }();
    return vocabulary;
}

std::string base64(std::string_view text) {
    std::string bytes;
    std::uint32_t bits = 0;
    int count = 0;
    for (const char c : text) {
        const auto value = std::string_view("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/").find(c);
        if (value == std::string_view::npos) { break; }
        bits = bits << 6 | static_cast<std::uint32_t>(value);
        count += 6;
        if (count >= 8) {
            count -= 8;
            bytes.push_back(static_cast<char>(bits >> count & 0xff));
        }
    }
    return bytes;
}

/// A file of "BASE64 RANK" lines as a vocabulary with merges: a token is merged from what its bytes become by the
/// tokens of lower rank, which are two.
Vocabulary from_ranks(const fs::path& file) {
    std::vector<std::string> tokens;
    const std::string text = text_test::bytes_of(file);
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t end = std::min(text.find('\n', at), text.size());
        if (end > at) { tokens.push_back(base64(std::string_view(text).substr(at, end - at))); }
        at = end + 1;
    }
    std::map<std::string, std::size_t> ranks;
    for (std::size_t rank = 0; rank < tokens.size(); ++rank) {
        ranks[tokens[rank]] = rank;
    }
    Vocabulary vocabulary;
    for (std::size_t rank = 0; rank < tokens.size(); ++rank) {
        std::vector<std::string> parts;
        for (const char byte : tokens[rank]) {
            parts.emplace_back(1, byte);
        }
        while (parts.size() > 2) {
            std::size_t best = rank;
            std::size_t best_at = parts.size();
            for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
                const auto found = ranks.find(parts[i] + parts[i + 1]);
                if (found != ranks.end() && found->second < best) {
                    best = found->second;
                    best_at = i;
                }
            }
            if (best_at == parts.size()) { break; }
            parts[best_at] += parts[best_at + 1];
            parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best_at) + 1);
        }
        if (parts.size() == 2) { vocabulary.merges.push_back(byte_level(parts[0]) + " " + byte_level(parts[1])); }
        vocabulary.tokens.push_back(byte_level(tokens[rank]));
    }
    vocabulary.types.assign(vocabulary.tokens.size(), kNormal);
    return vocabulary;
}

text::ModelText load(const fs::path& path) {
    auto model = text::ModelText::load(path);
    INFO((model ? "" : model.error().message));
    REQUIRE(model);
    return std::move(*model);
}

text::ModelText load(const Writer& writer) {
    const TemporaryFolder folder;
    writer.write(folder.path() / "m.gguf");
    return load(folder.path() / "m.gguf");
}

base::Error refusal(const Writer& writer) {
    const TemporaryFolder folder;
    writer.write(folder.path() / "m.gguf");
    const auto model = text::ModelText::load(folder.path() / "m.gguf");
    REQUIRE_FALSE(model);
    CAPTURE(model.error().message);
    CHECK(model.error().message.find("m.gguf: ") != std::string::npos);
    return model.error();
}

bool contains(const base::Error& error, std::string_view part) {
    return error.message.find(part) != std::string::npos;
}

void check_rows(const text::Tokenizer& tokenizer, const fs::path& path, std::size_t rows_expected) {
    const auto rows = text_test::rows_of(path);
    CHECK(rows.size() == rows_expected);
    for (const auto& row : rows) {
        const std::string text(row.at("text").as_string());
        CAPTURE(path.string(), text);
        const auto ids = tokenizer.encode(text);
        REQUIRE(ids);
        CHECK(*ids == text_test::ids_of(row.at("ids")));
    }
}

std::vector<base::TokenId> encode(const text::Tokenizer& tokenizer, std::string_view text, bool special = false) {
    const auto ids = tokenizer.encode(text, {.add_special = special, .parse_special = special});
    REQUIRE(ids);
    return *ids;
}

/// A SentencePiece vocabulary: <unk>, <s>, </s>, the 256 bytes from 3 on, then from 259 on "▁" a b ab ▁ab <tool>.
Writer pieces() {
    std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
    std::vector<std::int32_t> types = {kUnknown, kControl, kControl};
    std::vector<float> scores(3, 0.0f);
    for (int byte = 0; byte < 256; ++byte) {
        char text[8];
        std::snprintf(text, sizeof text, "<0x%02X>", static_cast<unsigned>(byte));
        tokens.emplace_back(text);
        types.push_back(kByte);
        scores.push_back(0);
    }
    for (const char* text : {"\u2581", "a", "b", "ab", "\u2581ab"}) {
        tokens.emplace_back(text);
        types.push_back(kNormal);
        scores.push_back(-static_cast<float>(tokens.size()));
    }
    tokens.emplace_back("<tool>");
    types.push_back(kUserDefined);
    scores.push_back(0);
    Writer writer;
    writer.text("tokenizer.ggml.model", "llama").texts("tokenizer.ggml.tokens", tokens);
    writer.f32s("tokenizer.ggml.scores", scores).i32s("tokenizer.ggml.token_type", types);
    writer.u32("tokenizer.ggml.bos_token_id", 1).u32("tokenizer.ggml.eos_token_id", 2);
    return writer;
}

}  // namespace

TEST_CASE("a byte-level vocabulary in a GGUF file gives the ids that others give", "[text]") {
    const auto model = load(gpt2().writer("gpt-2"));
    check_rows(*model.tokenizer, text_test::own_data() / "llamacpp_gpt-2.jsonl", 47);
    check_rows(*model.tokenizer, text_test::own_data() / "ref_gpt-2.jsonl", 330);
    CHECK(model.tokenizer->vocabulary_size() == gpt2().tokens.size());
    for (const char* text : {"Hello, world", " \n\tmixed  space", "日本語 and 🚀", ""}) {
        CHECK(model.tokenizer->decode(encode(*model.tokenizer, text)) == text);
    }
}

TEST_CASE("ranks of the shared data as GGUF vocabularies give the ids of their vectors", "[text]") {
    const auto data = text_test::shared_data();
    if (!data) { return text_test::skipped("no shared data with tokenizers"); }
    const fs::path vectors = *data / "tokenizers" / "vectors";
    SECTION("qwen2") {
        const auto model = load(from_ranks(*data / "tokenizers" / "qwen2" / "qwen.tiktoken").writer("qwen2"));
        check_rows(*model.tokenizer, vectors / "llamacpp_qwen2.jsonl", 47);
        check_rows(*model.tokenizer, vectors / "ref_qwen2.jsonl.gz", 330);
    }
    SECTION("llama-bpe") {
        const auto model = load(from_ranks(*data / "tokenizers" / "llama3" / "tokenizer.model").writer("llama-bpe"));
        check_rows(*model.tokenizer, vectors / "llamacpp_llama-bpe.jsonl", 47);
        check_rows(*model.tokenizer, vectors / "ref_llama-bpe.jsonl.gz", 330);
    }
}

TEST_CASE("the pre-tokeniser that a GGUF file names decides how text is cut", "[text]") {
    const auto count = [](const char* pre, std::string_view text) {
        return encode(*load(gpt2().writer(pre)).tokenizer, text).size();
    };
    CHECK(count("gpt-2", "1000") == 1);
    CHECK(count("smollm", "1000") == 4);     // digits one by one
    CHECK(count("llama-bpe", "1000") == 2);  // by three: 100, 0
    CHECK(count("qwen2", "1000") == 4);
    CHECK(count("falcon", "1000") == 2);
    for (const char* pre :
         {"default",     "phi-2",      "olmo",        "mpt",      "starcoder",        "refact",
          "minerva-7b",  "command-r",  "llama3",      "llama-v3", "pixtral",          "falcon3",
          "dbrx",        "smaug-bpe",  "chatglm-bpe", "glm4",     "deepseek-r1-qwen", "megrez",
          "stablelm2",   "hunyuan",    "grok-2",      "qwen35",   "deepseek-llm",     "deepseek-coder",
          "deepseek-v3", "falcon",     "tekken",      "gpt-4o",   "llama4",           "bloom",
          "viking",      "bailingmoe", "seed-coder",  "minicpm5"}) {
        CAPTURE(pre);
        const auto model = load(gpt2().writer(pre));
        for (const char* text : {"Hello there, it's 1234567 o'clock!\n\n  Grüße,\t日本 (x+1)=`y`\r\n", "  "}) {
            CHECK(model.tokenizer->decode(encode(*model.tokenizer, text)) == text);
        }
    }
}

TEST_CASE("an unknown pre-tokeniser of a GGUF file is an error that names it", "[text]") {
    CHECK(contains(refusal(gpt2().writer("brand-new")), "\"brand-new\""));
    CHECK(refusal(gpt2().writer("brand-new")).code == base::ErrorCode::unimplemented);
    CHECK(contains(refusal(gpt2().writer("kimi-k2")), "\"kimi-k2\""));
    CHECK(contains(refusal(gpt2().writer("")), "tokenizer.ggml.pre is missing"));
    Writer without;
    without.text("tokenizer.ggml.model", "gpt2").texts("tokenizer.ggml.tokens", gpt2().tokens);
    without.texts("tokenizer.ggml.merges", gpt2().merges).i32s("tokenizer.ggml.token_type", gpt2().types);
    CHECK(contains(refusal(without), "tokenizer.ggml.pre is missing"));
}

TEST_CASE("what a GGUF vocabulary lacks or contradicts is an error that names it", "[text]") {
    const auto of_kind = [](std::string_view kind) {
        Writer writer;
        writer.text("tokenizer.ggml.model", kind).texts("tokenizer.ggml.tokens", {"a"});
        return writer.i32s("tokenizer.ggml.token_type", {1});
    };
    CHECK(contains(refusal(of_kind("bert")), "of the kind \"bert\""));
    CHECK(contains(refusal(Writer().u32("tokenizer.ggml.model", 3)), "tokenizer.ggml.model is 3"));
    CHECK(contains(refusal(Writer()), "tokenizer.ggml.model is missing"));
    CHECK(contains(refusal(Writer().text("tokenizer.ggml.model", "gpt2")), "tokenizer.ggml.tokens is missing"));
    CHECK(contains(refusal(of_kind("gpt2").text("tokenizer.ggml.pre", "gpt-2")), "tokenizer.ggml.merges is missing"));
    CHECK(contains(refusal(of_kind("llama")), "tokenizer.ggml.scores has 0 items, there are 1"));
    Vocabulary few = gpt2();
    few.types.pop_back();
    CHECK(contains(refusal(few.writer("gpt-2")), "tokenizer.ggml.token_type has 50256 items"));
    Vocabulary doubled = gpt2();
    doubled.tokens[7] = doubled.tokens[3];
    CHECK(contains(refusal(doubled.writer("gpt-2")), "token 7 has the text of another token"));
    CHECK(contains(refusal(gpt2().writer("gpt-2").u32("tokenizer.ggml.bos_token_id", 60'000)),
                   "tokenizer.ggml.bos_token_id is 60000, there are 50257 tokens"));
    CHECK(contains(refusal(gpt2().writer("gpt-2").text("tokenizer.ggml.add_bos_token", "yes")),
                   "tokenizer.ggml.add_bos_token is \"yes\""));
    CHECK(contains(refusal(gpt2().writer("gpt-2").u32("tokenizer.chat_template", 1)), "tokenizer.chat_template is 1"));
    Vocabulary binary = gpt2();
    binary.tokens[9] = "\xff\xfe";
    CHECK(contains(refusal(binary.writer("gpt-2")), "item 9 of tokenizer.ggml.tokens is not UTF-8"));
    CHECK(contains(refusal(Writer().text("tokenizer.ggml.model", "gpt2").u32("tokenizer.ggml.tokens", 2)),
                   "tokenizer.ggml.tokens is 2"));
}

TEST_CASE("special tokens of a GGUF vocabulary are cut out, and BOS and EOS added where the file says so", "[text]") {
    Vocabulary vocabulary = gpt2();
    vocabulary.tokens.insert(vocabulary.tokens.end(), {"<|im_start|>", "<|im_end|>", "<tool_call>", "[PAD0]"});
    vocabulary.types.insert(vocabulary.types.end(), {kControl, kControl, kUserDefined, kUnused});
    const auto start = static_cast<base::TokenId>(gpt2().tokens.size());
    Writer writer = vocabulary.writer("qwen2");
    writer.u32("tokenizer.ggml.bos_token_id", static_cast<std::uint32_t>(start));
    writer.u32("tokenizer.ggml.eos_token_id", static_cast<std::uint32_t>(start + 1));
    const auto model = load(writer);
    const text::Tokenizer& tokenizer = *model.tokenizer;
    CHECK(encode(tokenizer, "<|im_start|>", true) == std::vector<base::TokenId>{start});
    CHECK(encode(tokenizer, "<|im_start|>").size() > 1);                               // plain text
    CHECK(encode(tokenizer, "<tool_call>") == std::vector<base::TokenId>{start + 2});  // no special one: always
    CHECK(tokenizer.is_special(start));
    CHECK_FALSE(tokenizer.is_special(start + 2));
    CHECK(tokenizer.decode(std::vector<base::TokenId>{start, start + 2, start + 3}) == "<tool_call>");
    CHECK(tokenizer.bos() == start);
    CHECK(tokenizer.eos() == start + 1);
    CHECK(model.eos_ids == std::vector<base::TokenId>{start - 1, start + 1});  // <|endoftext|>, <|im_end|>
    CHECK(encode(tokenizer, "a", true).size() == 1);

    const auto both = load(
        Writer(writer).boolean("tokenizer.ggml.add_bos_token", true).boolean("tokenizer.ggml.add_eos_token", true));
    CHECK(encode(*both.tokenizer, "a", true).size() == 3);
    CHECK(encode(*both.tokenizer, "a", true).front() == start);
    CHECK(encode(*both.tokenizer, "a", true).back() == start + 1);
    CHECK(encode(*both.tokenizer, "a").size() == 1);

    Writer llama = vocabulary.writer("llama-bpe");  // says nothing: this family begins with BOS
    llama.u32("tokenizer.ggml.bos_token_id", static_cast<std::uint32_t>(start));
    CHECK(encode(*load(llama).tokenizer, "a", true).size() == 2);
    CHECK(encode(*load(Writer(llama).boolean("tokenizer.ggml.add_bos_token", false)).tokenizer, "a", true).size() == 1);
    // As an unsigned number -1 means: none.
    CHECK_FALSE(load(vocabulary.writer("llama-bpe").u32("tokenizer.ggml.bos_token_id", 0xffffffffu)).tokenizer->bos());
}

TEST_CASE("a SentencePiece vocabulary in a GGUF file has scores, byte fallback and the space in front", "[text]") {
    using Ids = std::vector<base::TokenId>;
    const auto model = load(pieces());
    const text::Tokenizer& tokenizer = *model.tokenizer;
    CHECK(encode(tokenizer, "ab") == Ids{263});
    CHECK(encode(tokenizer, "ab", true) == Ids{1, 263});
    CHECK(encode(tokenizer, "abba") == Ids{263, 261, 260});
    CHECK(encode(tokenizer, "é") == Ids{259, 3 + 0xc3, 3 + 0xa9});
    CHECK(encode(tokenizer, "a<tool>ab") == Ids{259, 260, 264, 263});
    CHECK(encode(tokenizer, "</s>", true) == Ids{1, 2});
    CHECK(tokenizer.decode(encode(tokenizer, "ab é ab")) == "ab é ab");
    CHECK(tokenizer.bos() == 1);
    CHECK(model.eos_ids == Ids{2});

    const auto bare = load(pieces().boolean("tokenizer.ggml.add_space_prefix", false));
    CHECK(encode(*bare.tokenizer, "ab") == Ids{262});
    const auto without_bos = load(pieces().boolean("tokenizer.ggml.add_bos_token", false));
    CHECK(encode(*without_bos.tokenizer, "ab", true) == Ids{263});
}

TEST_CASE("the chat templates of a GGUF file render with its special tokens", "[text]") {
    Writer writer = gpt2().writer("gpt-2");
    writer.u32("tokenizer.ggml.bos_token_id", 50256).u32("tokenizer.ggml.padding_token_id", 50256);
    writer.text("tokenizer.chat_template", "{{ bos_token }}{{ messages[0].content }}");
    writer.text("tokenizer.chat_template.tool_use", "tools: {{ tools | length }}{{ pad_token }}");
    writer.f32("general.sampling.temp", 0.5f).i32("general.sampling.top_k", 20).f32("general.sampling.top_p", 0.75f);
    const auto model = load(writer);
    REQUIRE(model.chat_template);
    REQUIRE(model.tool_template);
    const auto context = model.with_variables(R"({"messages":[{"content":"hi"}],"tools":[1,2]})");
    REQUIRE(context);
    const text::CivilTime now{.year = 2024, .month = 7, .day = 26};
    CHECK(model.chat_template->render(*context, now) == std::string("<|endoftext|>hi"));
    CHECK(model.tool_template->render(*context, now) == std::string("tools: 2<|endoftext|>"));
    CHECK(model.defaults.temperature == 0.5);
    CHECK(model.defaults.top_k == 20);
    CHECK(model.defaults.top_p == 0.75);

    const auto beyond =
        load(gpt2().writer("gpt-2").u32("tokenizer.ggml.eot_token_id", 1u << 20).f32("general.sampling.temp", -1));
    CHECK_FALSE(beyond.defaults.temperature);
    REQUIRE(beyond.warnings.size() == 2);
    CHECK(beyond.warnings[0].find("tokenizer.ggml.eot_token_id is 1048576") != std::string::npos);
    CHECK(beyond.warnings[1].find("general.sampling.temperature is -1") != std::string::npos);

    const auto plain = load(gpt2().writer("gpt-2"));
    CHECK_FALSE(plain.chat_template);
    CHECK(plain.chat_template_problem.find("tokenizer.chat_template") != std::string::npos);
    const auto odd = load(gpt2().writer("gpt-2").text("tokenizer.chat_template", "{% if %}"));
    CHECK_FALSE(odd.chat_template);
    CHECK_FALSE(odd.chat_template_problem.empty());
}

TEST_CASE("any part of a split GGUF model has the tokenizer of the first", "[text]") {
    const TemporaryFolder folder;
    gpt2().writer("gpt-2").u16("split.no", 0).u16("split.count", 2).write(folder.path() / "m-00001-of-00002.gguf");
    Writer().u16("split.no", 1).u16("split.count", 2).write(folder.path() / "m-00002-of-00002.gguf");
    CHECK(load(folder.path() / "m-00002-of-00002.gguf").tokenizer->vocabulary_size() == gpt2().tokens.size());
}
