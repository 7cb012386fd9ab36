#include "gateway/trace_capture.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <span>

#include "base/log.h"
#include "gateway/openai/json_writer.h"
#include "gateway/request/prompt_hashes.h"
#include "gateway/request/sequence_source.h"
#include "proto/block_hashes.h"

namespace gateway {
namespace {

using base::ErrorCode;

constexpr std::uint64_t kIdBits = 53;  // what every reader of JSON keeps of a number

base::BlockHash hash_of(const base::HashKey& key, std::string_view text) {
    return base::keyed_hash(key, std::as_bytes(std::span(text)));
}

std::uint64_t id_of(const base::HashKey& key, const base::BlockHash& block) {
    const std::array<std::uint64_t, 2> words{block.high, block.low};
    return base::keyed_hash(key, std::as_bytes(std::span(words))).low >> (64 - kIdBits);
}

std::string milliseconds(base::Duration duration) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3f",
                  std::chrono::duration<double, std::milli>(std::max(duration, base::Duration::zero())).count());
    return text;
}

base::Error failure(const std::string& what) {
    return {ErrorCode::unavailable, what + ": " + std::strerror(errno)};
}

}  // namespace

CaptureOptions CaptureOptions::read(base::Config& config) {
    CaptureOptions options;
    options.file = config.string("capture.file", options.file);
    options.bytes_max = static_cast<std::uint64_t>(
        config.integer("capture.bytes_max", static_cast<std::int64_t>(options.bytes_max), 4096, 1ll << 40));
    options.block_tokens =
        static_cast<std::uint32_t>(config.integer("capture.block_tokens", options.block_tokens, 16, 65'536));
    options.session_header = config.string("capture.session_header", options.session_header);
    std::transform(options.session_header.begin(), options.session_header.end(), options.session_header.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    return options;
}

std::string CaptureLines::line(const CapturedRow& row) {
    JsonWriter json;
    json.begin_object().key("timestamp").raw(milliseconds(row.received_at - began_at_));
    json.key("input_length").integer(row.prompt_tokens).key("output_length").integer(row.output_tokens);
    json.key("hash_ids").begin_array();
    for (const base::BlockHash& block : row.blocks) {
        json.integer(static_cast<std::int64_t>(id_of(key_, block)));
    }
    json.end_array().key("block_tokens").integer(row.block_tokens);
    if (!row.session.empty()) {
        const base::BlockHash name = hash_of(key_, row.session);
        const auto known = sessions_.find(name);
        if (known == sessions_.end()) {
            if (oldest_.size() == kSessionsMax) {
                sessions_.erase(oldest_.front());
                oldest_.pop_front();
            }
            oldest_.push_back(name);
            json.key("session_id").integer(static_cast<std::int64_t>(next_session_));
            sessions_[name] = {next_session_++, row.ended_at};
        } else {
            json.key("session_id").integer(static_cast<std::int64_t>(known->second.id));
            json.key("delay").raw(milliseconds(row.received_at - known->second.ended_at));
            known->second.ended_at = std::max(known->second.ended_at, row.ended_at);
        }
    }
    json.key("model").string(row.model).key("slo_class").string(row.slo_class);
    return json.end_object().take() + "\n";
}

base::Result<std::unique_ptr<CaptureFile>> CaptureFile::open(const std::string& path, std::uint64_t bytes_max) {
    struct stat about{};
    if (stat(path.c_str(), &about) == 0 && S_ISREG(about.st_mode) && about.st_size > 0 &&
        std::rename(path.c_str(), (path + ".old").c_str()) != 0) {
        return tl::unexpected(failure("capture.file: cannot put " + path + " aside as " + path + ".old"));
    }
    const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    if (descriptor < 0) { return tl::unexpected(failure("capture.file: cannot write " + path)); }
    return std::unique_ptr<CaptureFile>(new CaptureFile(descriptor, bytes_max));
}

CaptureFile::~CaptureFile() {
    close(descriptor_);
}

base::Result<void> CaptureFile::add(std::string_view line) {
    if (bytes_ + line.size() > bytes_max_) {
        return base::fail(ErrorCode::resource_exhausted, "the file has the size that capture.bytes_max allows");
    }
    std::size_t done = 0;
    while (done < line.size()) {
        const ssize_t count = ::write(descriptor_, line.data() + done, line.size() - done);
        if (count < 0 && errno == EINTR) { continue; }
        if (count <= 0) {
            auto error = failure("cannot write");
            // Back to the last whole line. What does not work on something that is no file matters to nobody there.
            [[maybe_unused]] const int ignored = ftruncate(descriptor_, static_cast<off_t>(bytes_));
            return tl::unexpected(std::move(error));
        }
        done += static_cast<std::size_t>(count);
    }
    bytes_ += line.size();
    return {};
}

base::Result<std::unique_ptr<TraceCapture>> TraceCapture::start(const CaptureOptions& options, base::Metrics& metrics,
                                                                const base::Clock& clock) {
    auto file = CaptureFile::open(options.file, options.bytes_max);
    if (!file) { return base::pass_on(file); }
    return std::make_unique<TraceCapture>(Setup{.options = options,
                                                .sink = [file = std::shared_ptr<CaptureFile>(std::move(*file))](
                                                            std::string_view line) { return file->add(line); },
                                                .metrics = metrics,
                                                .clock = clock});
}

TraceCapture::TraceCapture(Setup setup)
    : setup_(std::move(setup)),
      lines_(setup_.key, setup_.clock.now()),
      written_(setup_.metrics.counter("sluice_gateway_capture_rows_total", "Sequences by what became of their row",
                                      {{"result", "written"}})),
      queue_full_(setup_.metrics.counter("sluice_gateway_capture_rows_total", "Sequences by what became of their row",
                                         {{"result", "queue_full"}})),
      file_full_(setup_.metrics.counter("sluice_gateway_capture_rows_total", "Sequences by what became of their row",
                                        {{"result", "file_full"}})),
      failed_(setup_.metrics.counter("sluice_gateway_capture_rows_total", "Sequences by what became of their row",
                                     {{"result", "failed"}})),
      without_tokens_(setup_.metrics.counter("sluice_gateway_capture_rows_total",
                                             "Sequences by what became of their row", {{"result", "without_tokens"}})),
      rows_(setup_.rows_max) {
    writer_ = std::jthread([this] { write(); });
}

TraceCapture::~TraceCapture() {
    rows_.close();
}

void TraceCapture::on_sequence_end(const GenerationRequest& request, const GenerationEnd& end, std::string_view model) {
    if (request.encodes) { return; }
    if (end.completion_tokens == 0) { return without_tokens_.Increment(); }  // how long it would have been is not known
    CapturedRow row{.received_at = request.received_at,
                    .ended_at = setup_.clock.now(),
                    .prompt_tokens = end.prompt_tokens,
                    .output_tokens = end.completion_tokens,
                    .block_tokens = setup_.options.block_tokens,
                    .blocks = {},
                    .session = request.session.empty() ? std::string() : request.tenant + '\0' + request.session,
                    .model = std::string(model),
                    .slo_class = request.slo.class_name};
    if (request.hashes) {
        // Each name stands for all that is before it: the last of some KV blocks names them together.
        const std::uint32_t kv_block = request.hashes->scope().block_tokens;
        const std::uint32_t each = (setup_.options.block_tokens + kv_block - 1) / kv_block;
        row.block_tokens = each * kv_block;
        for (std::size_t at = each; at <= request.hashes->blocks(); at += each) {
            row.blocks.push_back(sluice::proto::block_hash_at(request.hashes->bytes(), at - 1));
        }
    }
    if (!rows_.push(std::move(row))) { queue_full_.Increment(); }
}

void TraceCapture::write() {
    bool has_told = false;
    // Until the queue is closed and empty; never stopped in between.
    while (const auto row = rows_.pop(std::stop_token())) {
        const auto added = setup_.sink(lines_.line(*row));
        if (added) {
            written_.Increment();
            continue;
        }
        (added.error().code == ErrorCode::resource_exhausted ? file_full_ : failed_).Increment();
        if (!std::exchange(has_told, true)) { spdlog::warn("capture: rows are left out: {}", added.error().message); }
    }
}

}  // namespace gateway
