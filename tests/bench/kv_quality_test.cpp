#include "bench/kv_quality.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <random>
#include <string>

#include "bench/arithmetic_coder.h"
#include "bench/codec_speed.h"
#include "bench/kv_calibrate.h"
#include "bench/zstd_codec.h"
#include "kv_transfer/codec/rans.h"
#include "tests/engine/support.h"

#include "tests/support/catch.h"

namespace {

const std::string kModel = std::string(SLUICE_SOURCE_DIR) + "/models/stories260k";

void write_text(const std::string& path) {
    std::ofstream file(path);
    for (int i = 0; i < 30; ++i) {
        file << "Once upon a time, there was a little girl named Lily. She loved to play outside in the park number " +
                    std::to_string(i * 7919) + ". One day, her mom said \"zebra\" & went home.\n";
    }
}

bench::KvTrialOptions trial_options(const test_engine::TemporaryFolder& folder) {
    bench::KvTrialOptions options;
    options.model_dir = kModel;
    options.text_path = folder.file("text.txt");
    options.context = 150;
    options.continuation = 60;
    options.generated = 24;
    options.windows = 3;
    options.kv_dtype = "bf16";
    options.threads = 1;
    options.packed_dir = folder.file("packed");
    return options;
}

}  // namespace

TEST_CASE("KV that went through a codec is scored beside KV as it was: exact changes nothing, loss shows", "[bench]") {
    const test_engine::TemporaryFolder folder;
    write_text(folder.file("text.txt"));
    bench::KvQualityOptions options;
    options.trial = trial_options(folder);
    options.codecs = {"all"};
    options.chunks = {.tokens = 64, .layers = 2};
    std::vector<std::uint32_t> windows;
    std::vector<std::size_t> rows;
    const auto report =
        bench::measure_kv_quality(options, [&](const bench::KvQualityReport& so_far) -> base::Result<void> {
            windows.push_back(so_far.windows);
            rows.push_back(so_far.rows.size());
            return {};
        });
    REQUIRE(report);
    CHECK(windows == std::vector<std::uint32_t>{1, 2, 3});
    CHECK(rows == std::vector<std::size_t>(3, report->rows.size()));
    CHECK(report->windows == 3);
    CHECK(report->tokens_scored == 3 * 59);
    REQUIRE(report->rows.size() == 15 + kv_transfer::kSluiceLevels + (bench::system_zstd() == nullptr ? 0 : 1));
    double rms_before = 0;
    for (const bench::KvQuality& row : report->rows) {
        CAPTURE(row.codec, row.level);
        CHECK(std::isfinite(row.perplexity));
        if (row.codec == "raw" || row.codec == "exact") {
            CHECK(row.relative_error == 0);
            CHECK(row.perplexity == report->perplexity);
            CHECK(row.logprob_change_rms == 0);
            CHECK(row.answers_equal == 1);
            CHECK(row.tokens_equal == 1);
            CHECK((row.codec == "raw" ? row.bits_per_value == 16 : row.bits_per_value < 14));
        } else {
            CHECK(row.relative_error > 0);
            CHECK(row.logprob_change_rms > 0);
        }
        if (row.codec == "int8" || row.codec == "zstd") { CHECK(row.logprob_change_rms < 0.1); }
        if (row.codec == "sluice" && row.level % 3 == 1) {  // far enough apart to be ordered by this little text
            CHECK(row.logprob_change_rms > rms_before);
            rms_before = row.logprob_change_rms;
        }
    }
}

TEST_CASE("what is to be found in a prompt is scored and looked for, coded and not", "[bench]") {
    const test_engine::TemporaryFolder folder;
    write_text(folder.file("text.txt"));
    bench::KvQualityOptions options;
    options.trial = trial_options(folder);
    options.codecs = {"raw", "exact", "sluice"};
    options.levels = {0, 7};
    const bool by_lines = GENERATE(true, false);
    std::size_t windows = 3;
    if (by_lines) {
        std::ofstream file(folder.file("lines.jsonl"));
        for (const char* asked : {"red-hat", "big-cat"}) {
            const std::string line = std::string("line ") + asked + ": REGISTER_CONTENT is <";
            file << R"({"expected_number": 71, "correct_line": ")" + line + R"(71>\n", "prompt": "Read:\n)";
            for (int i = 0; i < 40; ++i) {
                file << (i == 17 ? line + "71>" : "line old-dog" + std::to_string(i) + ": REGISTER_CONTENT is <5>") +
                            "\\n";
            }
            file << "Now which?\"}\n";
        }
        options.trial.text_path = {};
        options.trial.longeval_path = folder.file("lines.jsonl");
        options.trial.longeval_lines = 4;
        windows = 2;
    } else {
        options.trial.passkeys = 3;
        options.trial.context = 200;
    }
    const auto report = bench::measure_kv_quality(options);
    CAPTURE(by_lines, (report ? "" : report.error().message));
    REQUIRE(report);
    CHECK(report->windows == windows);
    CHECK(report->answer_logprob < 0);
    REQUIRE(report->rows.size() == 4);
    for (const bench::KvQuality& row : report->rows) {
        CAPTURE(row.codec, row.level);
        CHECK(row.recall >= 0);
        CHECK(row.recall <= 1);
        if (row.codec == "sluice") { continue; }
        CHECK(row.recall == report->recall);
        CHECK(row.answer_logprob == Approx(report->answer_logprob));
        CHECK(row.answers_equal == 1);
        CHECK((row.codec == "raw" ? row.bits_per_value == 16 : row.bits_per_value < 14));
    }
    CHECK(std::abs(report->rows[2].answer_logprob - report->answer_logprob) <
          std::abs(report->rows[3].answer_logprob - report->answer_logprob));
    if (by_lines) {
        options.trial.longeval_lines = 0;  // all 40 are longer than the model reads
        CHECK(bench::measure_kv_quality(options).error().code == base::ErrorCode::invalid_argument);
        std::ofstream(folder.file("lines.jsonl")) << "{\"prompt\": \"a\"}\n";
        CHECK(bench::measure_kv_quality(options).error().code == base::ErrorCode::invalid_argument);
        options.trial.longeval_path = {};
        CHECK(bench::measure_kv_quality(options).error().code == base::ErrorCode::invalid_argument);
    } else {
        options.trial.passkeys = 1000;  // more than the text has room for
        CHECK(bench::measure_kv_quality(options).error().code == base::ErrorCode::invalid_argument);
    }
}

TEST_CASE("a profile is made of a model, holds for it alone, and costs no accuracy", "[bench]") {
    const test_engine::TemporaryFolder folder;
    write_text(folder.file("text.txt"));
    bench::KvCalibrateOptions calibrate;
    calibrate.trial = trial_options(folder);
    calibrate.trial.windows = 1;
    const auto profile = bench::calibrate_kv(calibrate);
    REQUIRE(profile);
    CHECK(profile->layers == 5);
    CHECK(profile->channels() == 2 * 5 * 4 * 8);
    const std::string path = folder.file("profile");
    REQUIRE(kv_transfer::write_profile(*profile, path));

    bench::KvQualityOptions options;
    options.trial = trial_options(folder);
    options.codecs = {"sluice"};
    options.levels = {2};
    options.profile_path = path;
    const auto with = bench::measure_kv_quality(options);
    REQUIRE(with);
    CHECK(with->rows.front().logprob_change_rms < 0.2);

    options.trial.kv_dtype = "f32";  // other numerics
    const auto other = bench::measure_kv_quality(options);
    REQUIRE(!other);
    CHECK(other.error().code == base::ErrorCode::failed_precondition);
    CHECK(other.error().message.find("make one with sluice kv calibrate") != std::string::npos);
}

TEST_CASE("what cannot be measured is refused with what to do", "[bench]") {
    const test_engine::TemporaryFolder folder;
    write_text(folder.file("text.txt"));
    bench::KvQualityOptions options;
    options.trial = trial_options(folder);
    options.codecs = {"zip"};
    CHECK(bench::measure_kv_quality(options).error().message.find("there are exact") != std::string::npos);
    options.codecs = {"exact"};
    options.levels = {5};
    CHECK(bench::measure_kv_quality(options).error().code == base::ErrorCode::invalid_argument);
    options.trial.context = 500;
    CHECK(bench::measure_kv_quality(options).error().message.find("560") != std::string::npos);
    options.trial.context = 150;
    options.trial.text_path = folder.file("none.txt");
    CHECK(bench::measure_kv_quality(options).error().code == base::ErrorCode::not_found);
    options.trial.text_path = folder.file("short.txt");
    std::ofstream(options.trial.text_path) << "Once.";
    CHECK(bench::measure_kv_quality(options).error().message.find("take a longer text") != std::string::npos);
}

TEST_CASE("the codecs' speeds are told with what they make of it", "[bench]") {
    bench::CodecSpeedOptions options;
    options.layers = 1;
    options.kv_heads = 1;
    options.head_dim = 64;
    options.tokens = 64;
    options.samples = 1;
    options.sample_ms = 0;
    const auto figures = bench::measure_codecs(options);
    REQUIRE(figures);
    std::size_t chunks = 0;
    int arithmetic = 0;
    for (const bench::CodecFigure& figure : *figures) {
        CAPTURE(figure.stage, figure.name);
        CHECK(figure.encode_values_per_s > 0);
        CHECK(figure.decode_values_per_s > 0);
        CHECK(figure.bits_per_value > 0);
        chunks += figure.stage == "chunk" ? 1 : 0;
        arithmetic += figure.name == "arithmetic" ? 1 : 0;
    }
    CHECK(arithmetic == 1);
    CHECK(chunks == 8 + kv_transfer::kSluiceLevels);
}

TEST_CASE("an arithmetic coder gives back what it got, in about as many bits as the symbols have", "[bench]") {
    const auto seed = GENERATE(range(0u, 20u));
    CAPTURE(seed);
    std::mt19937 random{seed};
    kv_transfer::RansFrequencies frequencies{};
    frequencies.fill(1);
    std::uint32_t left = kv_transfer::kRansSlots - kv_transfer::kRansSymbols;
    for (std::size_t i = 0; i + 1 < frequencies.size(); ++i) {  // the last ones are rare, or the first one nearly all
        const std::uint32_t more = seed % 2 == 0 ? left / 2 : static_cast<std::uint32_t>(random() % (left + 1));
        frequencies[i] = static_cast<std::uint16_t>(frequencies[i] + more);
        left -= more;
    }
    frequencies.back() = static_cast<std::uint16_t>(frequencies.back() + left);
    kv_transfer::RansTable table;
    REQUIRE(kv_transfer::make_rans_table(frequencies, table));
    std::vector<std::uint8_t> symbols(seed * 997);
    double bits = 0;
    for (std::uint8_t& symbol : symbols) {
        const auto slot = static_cast<std::uint32_t>(random() % kv_transfer::kRansSlots);
        symbol = static_cast<std::uint8_t>(table.slots[slot] % kv_transfer::kRansSymbols);
        bits += 12 - std::log2(table.frequency[symbol]);
    }
    const std::vector<std::byte> coded = bench::range_encode(table, symbols);
    CHECK(static_cast<double>(coded.size()) <= (bits + 0.001 * static_cast<double>(symbols.size())) / 8 + 8);
    std::vector<std::uint8_t> back(symbols.size());
    bench::range_decode(table, coded, back);
    CHECK(back == symbols);
}

TEST_CASE("a chunk of zstd that anybody may have made is refused, or decodes within its range", "[bench][fuzz]") {
    const auto zstd = bench::make_zstd_codec(7);
    if (zstd == nullptr) { return; }  // the system has none
    base::ModelShape shape;
    shape.layers = 2;
    shape.heads_q = shape.heads_kv = 2;
    shape.head_dim = 32;
    const auto layout = kv_cache::KvLayout::make(shape, {}, 16).value();
    const kv_cache::KvRange range{0, 2, 0, 32};
    std::mt19937 random{3};
    std::normal_distribution<float> normal;
    std::vector<std::byte> raw(layout.wire_bytes(range));
    for (std::size_t i = 0; i < raw.size() / 2; ++i) {
        bench::put_value(raw, true, i, normal(random));
    }
    std::vector<std::byte> chunk(zstd->bound(raw.size()));
    chunk.resize(zstd->encode(layout, range, 0, raw, chunk).value());
    std::vector<std::byte> out(raw.size());
    REQUIRE(zstd->decode(layout, range, 0, chunk, out));
    CHECK(zstd->is_lossy(0));
    CHECK_FALSE(zstd->has_level(1));
    int refused = 0;
    for (int i = 0; i < 300; ++i) {
        std::vector<std::byte> bad = chunk;
        for (auto count = 1 + random() % 3; count > 0; --count) {
            bad[random() % bad.size()] ^= static_cast<std::byte>(1u << random() % 8);
        }
        if (i % 3 == 0) { bad.resize(random() % bad.size()); }
        refused += zstd->decode(layout, range, 0, bad, out) ? 0 : 1;
    }
    CHECK(refused == 300);  // by int8's checksums, if by nothing else
    const kv_cache::KvRange other{0, 1, 0, 32};
    CHECK_FALSE(zstd->decode(layout, other, 0, chunk, std::span(out).first(out.size() / 2)));
}
