#include "bench/kv_quality.h"

#include <cmath>
#include <fstream>
#include <string>

#include "bench/codec_speed.h"
#include "bench/kv_calibrate.h"
#include "bench/zstd_codec.h"
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
    const auto report = bench::measure_kv_quality(options);
    REQUIRE(report);
    CHECK(report->windows == 3);
    CHECK(report->tokens_scored == 3 * 59);
    REQUIRE(report->rows.size() == 6 + kv_transfer::kSluiceLevels + (bench::system_zstd() == nullptr ? 0 : 1));
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
    for (const bench::CodecFigure& figure : *figures) {
        CAPTURE(figure.stage, figure.name);
        CHECK(figure.encode_values_per_s > 0);
        CHECK(figure.decode_values_per_s > 0);
        CHECK(figure.bits_per_value > 0);
        chunks += figure.stage == "chunk" ? 1 : 0;
    }
    CHECK(chunks == 5 + kv_transfer::kSluiceLevels);
}
