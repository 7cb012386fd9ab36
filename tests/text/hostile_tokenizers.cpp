#include <cstddef>
#include <utility>

#include "tests/text/hostile.h"

namespace text_test {
namespace {

std::string times(const std::string& piece, std::size_t count) {
    std::string text;
    text.reserve(piece.size() * count);
    for (; count > 0; --count) {
        text += piece;
    }
    return text;
}

/// The parts of a small tokenizer.json that loads; each case changes one.
struct File {
    std::string normalizer = "null";
    std::string pre_tokenizer = R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false})";
    std::string post_processor = "null";
    std::string decoder = R"({"type": "ByteLevel"})";
    std::string added_tokens = R"([{"id": 4, "content": "<s>", "special": true, "single_word": false, "lstrip": false,)"
                               R"( "rstrip": false, "normalized": false}])";
    std::string truncation = "null";
    std::string padding = "null";
    std::string model =
        R"({"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3}, "merges": ["a b"], "unk_token": null})";

    std::string text() const {
        return R"({"version": "1.0", "truncation": )" + truncation + R"(, "padding": )" + padding +
               R"(, "added_tokens": )" + added_tokens + R"(, "normalizer": )" + normalizer + R"(, "pre_tokenizer": )" +
               pre_tokenizer + R"(, "post_processor": )" + post_processor + R"(, "decoder": )" + decoder +
               R"(, "model": )" + model + "}";
    }
};

std::string replacing(const std::string& from, const std::string& to) {
    return R"({"type": "Replace", "pattern": {"String": ")" + from + R"("}, "content": ")" + to + R"("})";
}

std::string sequence(const std::string& list, const std::string& part, std::size_t count) {
    std::string parts = part;
    for (; count > 1; --count) {
        parts += "," + part;
    }
    return R"({"type": "Sequence", ")" + list + R"(": [)" + parts + "]}";
}

std::string nested(const std::string& list, const std::string& part, std::size_t depth) {
    return times(R"({"type": "Sequence", ")" + list + R"(": [)", depth) + part + times("]}", depth);
}

void add_patterns(std::vector<Hostile>& cases) {
    const std::vector<std::pair<std::string, std::string>> patterns = {
        {"(a*)*b", "(a*)*b"},
        {"(a|a)*b", "(a|a)*b"},
        {"((a+)+)+$", "((a+)+)+$"},
        {"(a+)+\\\\1b", "(a+)+\\\\1b"},
        {"^(a|aa|aaa)+$", "^(a|aa|aaa)+$"},
        {"(?=(a+))a*b\\\\1", "(?=(a+))a*b\\\\1"},
        {"(?<=a*b)", "(?<=a*b)"},
        {"a{1,100000}", "a{1,100000}"},
        {"((a{1,1000}){1,1000}){1,1000}", "((a{1,1000}){1,1000}){1,1000}"},
        {"(?:a?){3000}a{3000}", "(?:a?){3000}a{3000}"},
        {"calls itself", "(?<x>a\\\\g<x>?b?)*c"},
        {"30000 groups", times("(", 30'000) + "a" + times(")", 30'000)},
        {"30000 alternatives", times("a|", 30'000) + "b"},
        {"30000 classes", times("[", 30'000) + "a" + times("]", 30'000)},
        {"an empty one", ""},
        {"one that is broken", "(a"},
    };
    for (const auto& [name, pattern] : patterns) {
        File file;
        const std::string regex = R"({"Regex": ")" + pattern + R"("})";
        file.pre_tokenizer =
            R"({"type": "Split", "pattern": )" + regex + R"(, "behavior": "Isolated", "invert": false})";
        cases.push_back({"pre_tokenizer: " + name, file.text()});
        file = {};
        file.normalizer = R"({"type": "Replace", "pattern": )" + regex + R"(, "content": "aaaa"})";
        cases.push_back({"normalizer: " + name, file.text()});
    }
}

void add_parts(std::vector<Hostile>& cases) {
    const auto add = [&cases](const std::string& name, std::string File::* field, std::string value) {
        File file;
        file.*field = std::move(value);
        cases.push_back({name, file.text()});
    };
    const std::string big = times("x", 1'000'000);
    add("normalizer that doubles 40 times", &File::normalizer, sequence("normalizers", replacing("a", "aa"), 40));
    add("normalizer with a megabyte for a letter", &File::normalizer, replacing("a", big));
    add("normalizer with a megabyte for nothing", &File::normalizer, replacing("", big));
    add("normalizer that prepends a megabyte", &File::normalizer,
        R"({"type": "Prepend", "prepend": ")" + big + R"("})");
    add("normalizer of 30000 parts", &File::normalizer, sequence("normalizers", R"({"type": "NFKD"})", 30'000));
    add("normalizer nested 100 deep", &File::normalizer, nested("normalizers", R"({"type": "NFC"})", 100));
    add("normalizer nested 100000 deep", &File::normalizer, nested("normalizers", R"({"type": "NFC"})", 100'000));
    add("normalizer with a broken map", &File::normalizer,
        R"({"type": "Precompiled", "precompiled_charsmap": "////"})");
    add("normalizer with a map of zeros", &File::normalizer,
        R"({"type": "Precompiled", "precompiled_charsmap": ")" + times("AAAA", 10'000) + R"("})");
    add("normalizer of no known kind", &File::normalizer, R"({"type": "Nothing"})");
    add("normalizer that is a number", &File::normalizer, "7");
    add("pre_tokenizer nested 100 deep", &File::pre_tokenizer,
        nested("pretokenizers", R"({"type": "BertPreTokenizer"})", 100));
    add("pre_tokenizer of 30000 parts", &File::pre_tokenizer,
        sequence("pretokenizers", R"({"type": "Digits", "individual_digits": true})", 30'000));
    add("pre_tokenizer by an empty text", &File::pre_tokenizer,
        R"({"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": false})");
    add("pre_tokenizer of length 0", &File::pre_tokenizer, R"({"type": "FixedLength", "length": 0})");
    add("decoder that doubles 60 times", &File::decoder, sequence("decoders", replacing("a", "aa"), 60));
    add("decoder that strips 2000000000", &File::decoder,
        R"({"type": "Strip", "content": "a", "start": 2000000000, "stop": 18446744073709551615})");
    add("decoder of 30000 parts", &File::decoder, sequence("decoders", R"({"type": "ByteFallback"})", 30'000));
    add("decoder nested 100 deep", &File::decoder, nested("decoders", R"({"type": "ByteFallback"})", 100));
    add("decoder with a megabyte for a letter", &File::decoder, replacing("a", big));
    add("post_processor of unknown tokens", &File::post_processor,
        R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "no", "type_id": 0}}], "pair": [], "special_tokens": {}})");
    add("post_processor with a million ids", &File::post_processor,
        R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "s", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],)"
        R"( "pair": [], "special_tokens": {"s": {"id": "s", "ids": [0)" +
            times(",0", 1'000'000) + R"(], "tokens": ["s"]}}})");
    add("post_processor of 30000 sequences", &File::post_processor,
        R"({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}})" +
            times(R"(,{"Sequence": {"id": "A", "type_id": 0}})", 30'000) + R"(], "pair": [], "special_tokens": {}})");
    add("post_processor nested 100 deep", &File::post_processor,
        nested("processors", R"({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true})", 100));
    add("truncation to nothing", &File::truncation,
        R"({"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 5})");
    add("padding to 2000000000", &File::padding,
        R"({"strategy": {"Fixed": 2000000000}, "direction": "Right", "pad_to_multiple_of": 0, "pad_id": 0, "pad_type_id": 0, "pad_token": "a"})");
    const auto token = [](const std::string& id, const std::string& content) {
        return R"({"id": )" + id + R"(, "content": ")" + content +
               R"(", "special": true, "single_word": false, "lstrip": true, "rstrip": true, "normalized": true})";
    };
    add("added token with the id 4294967295", &File::added_tokens, "[" + token("4294967295", "<x>") + "]");
    add("added token with the id -1", &File::added_tokens, "[" + token("-1", "<x>") + "]");
    add("added token with the id 1e999", &File::added_tokens, "[" + token("1e999", "<x>") + "]");
    add("added token of nothing", &File::added_tokens, "[" + token("4", "") + "]");
    add("added token of a megabyte", &File::added_tokens, "[" + token("4", big) + "]");
    std::string many = token("4", "<4>");
    for (int id = 5; id < 60'000; ++id) {
        many += "," + token(std::to_string(id), "<" + std::to_string(id) + ">");
    }
    add("60000 added tokens", &File::added_tokens, "[" + many + "]");
}

void add_models(std::vector<Hostile>& cases) {
    std::string vocabulary = R"("a": 0, "b": 1)";
    for (int id = 2; id < 400'000; ++id) {
        vocabulary += R"(, "t)" + std::to_string(id) + R"(": )" + std::to_string(id);
    }
    const std::vector<std::pair<std::string, std::string>> models = {
        {"a vocabulary of nothing", R"({"type": "BPE", "vocab": {}, "merges": []})"},
        {"ids up to 4294967295", R"({"type": "BPE", "vocab": {"a": 0, "b": 4294967295}, "merges": []})"},
        {"ids up to 4000000", R"({"type": "BPE", "vocab": {"a": 0, "b": 4000000}, "merges": []})"},
        {"negative ids", R"({"type": "BPE", "vocab": {"a": -1}, "merges": []})"},
        {"the same id twice", R"({"type": "BPE", "vocab": {"a": 0, "b": 0, "ab": 0}, "merges": ["a b"]})"},
        {"merges of unknown tokens", R"({"type": "BPE", "vocab": {"a": 0}, "merges": ["x y"]})"},
        {"merges of no token", R"({"type": "BPE", "vocab": {"a": 0}, "merges": ["", "a", "a a a", 7, ["a"]]})"},
        {"a million merges", R"({"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b")" +
                                 times(R"(,"a b")", 1'000'000) + "]}"},
        {"400000 tokens", R"({"type": "BPE", "vocab": {)" + vocabulary + R"(}, "merges": []})"},
        {"a token of 8 MB",
         R"({"type": "BPE", "vocab": {"a": 0, ")" + times("a", 8'000'000) + R"(": 1}, "merges": []})"},
        {"a dropout of 7", R"({"type": "BPE", "dropout": 7, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]})"},
        {"a dropout of 1e999", R"({"type": "BPE", "dropout": 1e999, "vocab": {"a": 0}, "merges": []})"},
        {"an unknown unknown token", R"({"type": "BPE", "unk_token": "zz", "vocab": {"a": 0}, "merges": []})"},
        {"a prefix of a megabyte", R"({"type": "BPE", "continuing_subword_prefix": ")" + times("x", 1'000'000) +
                                       R"(", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]})"},
        {"a suffix that is longer than tokens",
         R"({"type": "BPE", "end_of_word_suffix": "xxxxxxxxxxxxxxxx", "continuing_subword_prefix": "yyyyyyyy", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]})"},
        {"unigram without tokens", R"({"type": "Unigram", "unk_id": 0, "vocab": []})"},
        {"unigram with an unknown id beyond its end", R"({"type": "Unigram", "unk_id": 9, "vocab": [["a", 0]]})"},
        {"unigram without unknown", R"({"type": "Unigram", "unk_id": null, "vocab": [["a", -1.0]]})"},
        {"unigram with absurd scores",
         R"({"type": "Unigram", "unk_id": 0, "vocab": [["a", 1e308], ["aa", -1e308], ["aaa", 1e308]]})"},
        {"unigram with scores that are none", R"({"type": "Unigram", "unk_id": 0, "vocab": [["a", NaN]]})"},
        {"unigram with a token of 8 MB",
         R"({"type": "Unigram", "unk_id": 0, "vocab": [["b", 0], [")" + times("a", 8'000'000) + R"(", -1]]})"},
        {"unigram with a token of nothing", R"({"type": "Unigram", "unk_id": 0, "vocab": [["", 0], ["a", -1]]})"},
        {"word pieces without unknown",
         R"({"type": "WordPiece", "unk_token": "no", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": {"a": 0}})"},
        {"word pieces of endless words",
         R"({"type": "WordPiece", "unk_token": "b", "continuing_subword_prefix": "a", "max_input_chars_per_word": 18446744073709551615, "vocab": {"a": 0, "b": 1}})"},
        {"words without unknown", R"({"type": "WordLevel", "unk_token": "no", "vocab": {"a": 0}})"},
        {"a model of no known kind", R"({"type": "Nothing", "vocab": {"a": 0}})"},
        {"a model that is a list", "[]"},
        {"a model nested 100000 deep", times("[", 100'000) + times("]", 100'000)},
    };
    for (const auto& [name, model] : models) {
        File file;
        file.model = model;
        cases.push_back({"model: " + name, file.text()});
    }
}

void add_files(std::vector<Hostile>& cases) {
    const std::string whole = File().text();
    cases.push_back({"an empty file", ""});
    cases.push_back({"a file that is cut short", whole.substr(0, whole.size() / 2)});
    cases.push_back({"a file that is a list", "[" + whole + "]"});
    cases.push_back({"a file nested 1000000 deep", times("[", 1'000'000)});
    cases.push_back({"a file of 30 MB in one text", "{\"" + times("x", 30'000'000) + "\": 1}"});
    cases.push_back({"a file of 10 MB of numbers", "{\"a\": [1" + times(",1", 5'000'000) + "]}"});
    cases.push_back({"a file with a mark of order", "\xef\xbb\xbf" + whole});
    cases.push_back({"a file that is not UTF-8", whole.substr(0, 20) + "\xff\xfe" + whole.substr(20)});
    cases.push_back({"a file with a zero byte", whole.substr(0, 20) + std::string(1, '\0') + whole.substr(20)});
    cases.push_back({"a file with every field twice", whole.substr(0, whole.size() - 1) + "," + whole.substr(1)});
}

}  // namespace

std::vector<Hostile> hostile_tokenizers() {
    std::vector<Hostile> cases;
    add_patterns(cases);
    add_parts(cases);
    add_models(cases);
    add_files(cases);
    return cases;
}

}  // namespace text_test
