#include "bench/codec_speed.h"

#include <dlfcn.h>
#include <time.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <random>

#include "base/model_shape.h"
#include "bench/arithmetic_coder.h"
#include "bench/report_json.h"
#include "bench/zstd_codec.h"
#include "kv_transfer/codec/bf16.h"
#include "kv_transfer/codec/class_tables.h"
#include "kv_transfer/codec/codecs.h"
#include "kv_transfer/codec/rans.h"

namespace bench {
namespace {

using base::ErrorCode;
using base::Result;

double now_seconds(bool processor_time) {
    timespec time{};
    ::clock_gettime(processor_time ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
    return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// Median calls a second.
double rate_of(const CodecSpeedOptions& options, const std::function<void()>& call) {
    call();
    std::vector<double> rates;
    for (std::uint32_t sample = 0; sample < options.samples; ++sample) {
        const double begin = now_seconds(options.processor_time);
        std::size_t calls = 0;
        double taken = 0;
        do {
            call();
            ++calls;
            taken = now_seconds(options.processor_time) - begin;
        } while (taken * 1000 < options.sample_ms);
        rates.push_back(static_cast<double>(calls) / taken);
    }
    std::nth_element(rates.begin(), rates.begin() + static_cast<std::ptrdiff_t>(rates.size() / 2), rates.end());
    return rates[rates.size() / 2];
}

std::vector<std::byte> make_kv(const CodecSpeedOptions& options) {
    std::mt19937 random{options.seed};
    std::normal_distribution<float> normal;
    const std::size_t heads = std::size_t{2} * options.layers * options.kv_heads;
    std::vector<std::byte> raw(heads * options.tokens * options.head_dim * 2);
    std::vector<float> mean(options.head_dim);
    std::vector<float> deviation(options.head_dim);
    std::size_t at = 0;
    for (std::size_t head = 0; head < heads; ++head) {
        for (std::uint32_t i = 0; i < options.head_dim; ++i) {
            mean[i] = 0.5f * normal(random);
            deviation[i] = std::exp(0.4f * normal(random));
        }
        for (std::uint32_t token = 0; token < options.tokens; ++token) {
            for (std::uint32_t i = 0; i < options.head_dim; ++i, at += 2) {
                const std::uint16_t bits = kv_transfer::bf16_near(mean[i] + deviation[i] * normal(random));
                std::memcpy(raw.data() + at, &bits, sizeof bits);
            }
        }
    }
    return raw;
}

std::shared_ptr<const kv_transfer::RotaryTable> make_rotary(const CodecSpeedOptions& options, std::uint32_t positions) {
    auto table = std::make_shared<kv_transfer::RotaryTable>();
    table->head_dim = options.head_dim;
    table->positions = positions;
    for (std::uint32_t position = 0; position < positions; ++position) {
        for (std::uint32_t pair = 0; pair < options.head_dim / 2; ++pair) {
            const double angle = position * std::pow(10000.0, -2.0 * pair / options.head_dim);
            table->cosines.push_back(static_cast<float>(std::cos(angle)));
            table->sines.push_back(static_cast<float>(std::sin(angle)));
        }
    }
    return table;
}

/// Symbols of a normal distribution two steps wide (about 3 bits), a table for each group as chunks have it.
Result<void> measure_entropy(const CodecSpeedOptions& options, std::size_t values, std::vector<CodecFigure>& figures) {
    std::mt19937 random{options.seed};
    std::vector<std::uint8_t> symbols(values / kv_transfer::kRansLanes * kv_transfer::kRansLanes);
    std::normal_distribution<float> normal{0, 1.2f};
    for (std::uint8_t& symbol : symbols) {
        symbol = static_cast<std::uint8_t>(std::clamp(std::lround(normal(random)), -15L, 15L) + 15);
    }
    const std::size_t rows = symbols.size() / kv_transfer::kRansLanes;
    const auto choice = kv_transfer::choose_class(kv_transfer::signed_classes(), symbols);
    std::vector<kv_transfer::RansRun> runs;
    for (std::size_t done = 0; done < rows; done += options.tokens) {
        runs.push_back(
            {&kv_transfer::signed_classes().tables[choice.id], std::min<std::size_t>(options.tokens, rows - done)});
    }
    const std::uint32_t groups = kv_transfer::rans_groups(rows);
    std::vector<std::byte> out(kv_transfer::rans_bound(rows, groups));
    std::vector<std::uint8_t> back(symbols.size());
    for (const auto family : kv_transfer::rans_families()) {
        const auto& kernels = kv_transfer::rans_kernels(family);
        CodecFigure figure{.stage = "entropy", .name = std::string("rans/") + kv_transfer::name_of(family)};
        std::span<const std::byte> stream;
        const double encodes =
            rate_of(options, [&] { stream = kv_transfer::rans_encode(kernels, runs, symbols, groups, out); });
        const double decodes =
            rate_of(options, [&] { static_cast<void>(kv_transfer::rans_decode(kernels, runs, stream, groups, back)); });
        const auto count = static_cast<double>(symbols.size());
        figure.bits_per_value = 8.0 * static_cast<double>(stream.size()) / count;
        figure.encode_values_per_s = encodes * count;
        figure.decode_values_per_s = decodes * count;
        figures.push_back(figure);
    }
    // One symbol after the other, as an arithmetic coder does it.
    const kv_transfer::RansTable& table = kv_transfer::signed_classes().tables[choice.id];
    CodecFigure figure{.stage = "entropy", .name = "arithmetic"};
    std::vector<std::byte> coded;
    const double encodes = rate_of(options, [&] { coded = range_encode(table, symbols); });
    const double decodes = rate_of(options, [&] { range_decode(table, coded, back); });
    if (back != symbols) { return base::fail(ErrorCode::internal, "arithmetic did not give back what it got"); }
    const auto count = static_cast<double>(symbols.size());
    figure.bits_per_value = 8.0 * static_cast<double>(coded.size()) / count;
    figure.encode_values_per_s = encodes * count;
    figure.decode_values_per_s = decodes * count;
    figures.push_back(figure);
    return {};
}

/// A compressor of the system, found when it is asked for: no build needs its headers.
struct Library {
    std::string name;
    std::function<std::size_t(std::span<const std::byte>, std::span<std::byte>)> compress;  // 0: failed
    std::function<std::size_t(std::span<const std::byte>, std::span<std::byte>)> decompress;
};

std::vector<Library> system_libraries() {
    std::vector<Library> found;
    const auto symbol = [](void* library, const char* name) {
        return library == nullptr ? nullptr : ::dlsym(library, name);
    };
    if (const SystemZstd* zstd = system_zstd()) {
        found.push_back(
            {"zstd -1",
             [zstd](std::span<const std::byte> in, std::span<std::byte> out) { return zstd->compress(in, out); },
             [zstd](std::span<const std::byte> in, std::span<std::byte> out) { return zstd->decompress(in, out); }});
    }
    void* lz4 = ::dlopen("liblz4.so.1", RTLD_NOW | RTLD_LOCAL);  // stays: libraries are not unloaded
    using Lz4 = int (*)(const char*, char*, int, int);
    if (symbol(lz4, "LZ4_compress_default") != nullptr && symbol(lz4, "LZ4_decompress_safe") != nullptr) {
        const auto with = [](Lz4 function) {
            return [function](std::span<const std::byte> in, std::span<std::byte> out) {
                const int bytes =
                    function(reinterpret_cast<const char*>(in.data()), reinterpret_cast<char*>(out.data()),
                             static_cast<int>(in.size()), static_cast<int>(out.size()));
                return bytes < 0 ? std::size_t{0} : static_cast<std::size_t>(bytes);
            };
        };
        found.push_back({"lz4", with(reinterpret_cast<Lz4>(symbol(lz4, "LZ4_compress_default"))),
                         with(reinterpret_cast<Lz4>(symbol(lz4, "LZ4_decompress_safe")))});
    }
    return found;
}

/// Values of int8 (scaled by their chunk), which is what generic compressors are given elsewhere.
std::vector<std::byte> as_int8(const std::vector<std::byte>& raw) {
    std::vector<std::byte> bytes(raw.size() / 2);
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        std::uint16_t half;
        std::memcpy(&half, raw.data() + i * 2, sizeof half);
        const std::uint32_t bits = std::uint32_t{half} << 16;
        float value;
        std::memcpy(&value, &bits, sizeof value);
        bytes[i] = static_cast<std::byte>(std::clamp(std::lround(value * 16), -127L, 127L));
    }
    return bytes;
}

boost::json::object json_of(const CodecSpeedOptions& options, const std::vector<CodecFigure>& figures) {
    boost::json::array list;
    for (const CodecFigure& figure : figures) {
        list.push_back({{"stage", figure.stage},
                        {"name", figure.name},
                        {"bits_per_value", figure.bits_per_value},
                        {"encode_values_per_s", figure.encode_values_per_s},
                        {"decode_values_per_s", figure.decode_values_per_s},
                        {"encode_bytes_per_s", figure.encode_bytes_per_s()},
                        {"decode_bytes_per_s", figure.decode_bytes_per_s()}});
    }
    return {{"layers", options.layers},
            {"kv_heads", options.kv_heads},
            {"head_dim", options.head_dim},
            {"tokens", options.tokens},
            {"samples", options.samples},
            {"processor_time", options.processor_time},
            {"threads", 1},
            {"figures", std::move(list)},
            {"machine", machine_json()},
            {"command", command_line()}};
}

void print(const std::vector<CodecFigure>& figures) {
    std::printf("one core; values of BF16, 2 bytes each\n");
    std::printf("%-10s %-16s %10s %14s %14s %12s %12s\n", "stage", "", "bits/value", "encode Gval/s", "decode Gval/s",
                "encode GB/s", "decode GB/s");
    for (const CodecFigure& figure : figures) {
        std::printf("%-10s %-16s %10.3f %14.3f %14.3f %12.2f %12.2f\n", figure.stage.c_str(), figure.name.c_str(),
                    figure.bits_per_value, figure.encode_values_per_s / 1e9, figure.decode_values_per_s / 1e9,
                    figure.encode_bytes_per_s() / 1e9, figure.decode_bytes_per_s() / 1e9);
    }
}

}  // namespace

Result<std::vector<CodecFigure>> measure_codecs(const CodecSpeedOptions& options) {
    base::ModelShape shape;
    shape.layers = options.layers;
    shape.heads_q = options.kv_heads;
    shape.heads_kv = options.kv_heads;
    shape.head_dim = options.head_dim;
    const auto layout = kv_cache::KvLayout::make(shape, {}, 16);
    if (!layout) { return base::pass_on(layout); }
    constexpr std::uint32_t kTokenBegin = 256;  // behind the sinks, and on whole blocks
    const kv_cache::KvRange range{0, options.layers, kTokenBegin, kTokenBegin + options.tokens};
    const std::vector<std::byte> raw = make_kv(options);
    const std::size_t values = raw.size() / 2;
    std::vector<std::byte> back(raw.size());

    std::vector<CodecFigure> figures;
    const double copies = rate_of(options, [&] { std::memcpy(back.data(), raw.data(), raw.size()); });
    figures.push_back({.stage = "copy",
                       .name = "memcpy",
                       .bits_per_value = 16,
                       .encode_values_per_s = copies * static_cast<double>(values),
                       .decode_values_per_s = copies * static_cast<double>(values)});
    if (const auto measured = measure_entropy(options, values, figures); !measured) { return base::pass_on(measured); }

    const auto rotary = make_rotary(options, range.token_end);
    for (const char* name : {"exact", "int8", "cachegen", "sluice"}) {
        auto codec = kv_transfer::make_codec(name, 0, rotary, nullptr);
        if (!codec) { return base::pass_on(codec); }
        std::vector<std::byte> chunk((*codec)->bound(raw.size()));
        for (std::uint32_t level = 0; level < 16; ++level) {
            if (!(*codec)->has_level(level)) { continue; }
            CodecFigure figure{.stage = "chunk", .name = std::string(name) + "/" + std::to_string(level)};
            std::size_t bytes = 0;
            const double encodes =
                rate_of(options, [&] { bytes = (*codec)->encode(*layout, range, level, raw, chunk).value_or(0); });
            bool is_good = bytes > 0;
            const double decodes = rate_of(options, [&] {
                is_good =
                    (*codec)->decode(*layout, range, level, std::span(chunk).first(bytes), back).has_value() && is_good;
            });
            if (!is_good || (!(*codec)->is_lossy(level) && back != raw)) {
                return base::fail(ErrorCode::internal, figure.name + " did not give back what it got");
            }
            figure.bits_per_value = 8.0 * static_cast<double>(bytes) / static_cast<double>(values);
            figure.encode_values_per_s = encodes * static_cast<double>(values);
            figure.decode_values_per_s = decodes * static_cast<double>(values);
            figures.push_back(figure);
        }
    }
    for (const Library& library : system_libraries()) {
        for (const bool is_int8 : {false, true}) {
            const std::vector<std::byte> input = is_int8 ? as_int8(raw) : raw;
            std::vector<std::byte> packed(input.size() * 2 + 4096);
            std::vector<std::byte> unpacked(input.size());
            CodecFigure figure{.stage = "library", .name = library.name + (is_int8 ? " of int8" : " of bf16")};
            std::size_t bytes = 0;
            const double encodes = rate_of(options, [&] { bytes = library.compress(input, packed); });
            const double decodes = rate_of(
                options, [&] { library.decompress(std::span<const std::byte>(packed).first(bytes), unpacked); });
            if (bytes == 0 || unpacked != input) {
                return base::fail(ErrorCode::internal, figure.name + " did not give back what it got");
            }
            figure.bits_per_value = 8.0 * static_cast<double>(bytes) / static_cast<double>(values);
            figure.encode_values_per_s = encodes * static_cast<double>(values);
            figure.decode_values_per_s = decodes * static_cast<double>(values);
            figures.push_back(figure);
        }
    }
    return figures;
}

int bench_codec_main(const CodecSpeedOptions& options) {
    const auto figures = measure_codecs(options);
    if (!figures) {
        std::fprintf(stderr, "bench codec: %s\n", figures.error().message.c_str());
        return 1;
    }
    return tell_figures("bench codec", options.out_path, json_of(options, *figures), [&] { print(*figures); });
}

void add_bench_codec(CLI::App& app, CodecSpeedOptions& options) {
    app.add_option("--layers", options.layers, "of a chunk")->check(CLI::Range(1u, 128u))->capture_default_str();
    app.add_option("--kv-heads", options.kv_heads, "of a layer")->check(CLI::Range(1u, 128u))->capture_default_str();
    app.add_option("--head-dim", options.head_dim, "values of a head")
        ->check(CLI::Range(2u, 256u))
        ->capture_default_str();
    app.add_option("--tokens", options.tokens, "of a chunk")->check(CLI::Range(1u, 4096u))->capture_default_str();
    app.add_option("--samples", options.samples, "of each figure")->check(CLI::Range(1u, 1000u))->capture_default_str();
    app.add_option("--sample-ms", options.sample_ms, "least time of one")
        ->check(CLI::Range(0.0, 10000.0))
        ->capture_default_str();
    app.add_flag("--processor-time", options.processor_time,
                 "instead of the wall clock: for a machine that others use");
    app.add_option("--out", options.out_path, "JSON file; - writes it to standard output instead of the table");
    app.footer(
        "How fast the KV codecs are on one core, beside a copy in memory, a plain arithmetic coder, and\n"
        "zstd and lz4 where the system has them.\n"
        "The entropy stage alone by instruction set, then whole chunks both ways, with checksums.");
}

}  // namespace bench
