#include "engine/model/weight_upload.h"

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

#include "base/check.h"
#include "engine/model/weight_check.h"
#include "engine/model/weight_rows.h"

namespace engine {
namespace {

using base::Result;

/// Of one of the two staging buffers: large enough for the copy engine, small beside any model that is worth a GPU.
constexpr std::size_t kStageBytes = std::size_t{16} << 20;

/// Two pinned buffers: one is filled while the other is copied; and one on the device, where rows wait to be rounded.
class Stages {
public:
    static Result<Stages> make(device::Device& device, std::size_t bytes, bool with_rounding) {
        Stages stages(device);
        auto stream = device.make_stream();
        if (!stream) { return base::pass_on(stream); }
        stages.stream_ = std::move(*stream);
        for (Stage& stage : stages.stages_) {
            auto buffer = device.allocate_host(bytes);
            if (!buffer) { return base::pass_on(buffer, "staging memory for the weights"); }
            stage.buffer = std::move(*buffer);
        }
        if (with_rounding) {
            auto buffer = device.allocate(bytes);
            if (!buffer) { return base::pass_on(buffer, "staging memory for the weights"); }
            stages.on_device_ = std::move(*buffer);
        }
        return stages;
    }

    Stages(Stages&&) = default;
    Stages& operator=(Stages&&) = delete;
    /// Waits: after a failure, too, copies from the buffers may still run.
    ~Stages() {
        if (stream_ != nullptr) { static_cast<void>(stream_->synchronize()); }
    }

    /// The next buffer, once its last copy has run.
    Result<std::byte*> next() {
        Stage& stage = stages_[turn_];
        if (stage.copied != nullptr) {
            if (auto done = stage.copied->wait(); !done) { return base::pass_on(done); }
            stage.copied = nullptr;
        }
        return stage.buffer.data();
    }

    /// Starts the copy of the first `bytes` bytes of what next() gave.
    Result<void> send(std::byte* target, std::size_t bytes) {
        Stage& stage = stages_[turn_];
        CHECK(bytes <= stage.buffer.size());
        if (auto copied = device_->copy_async(*stream_, target, stage.buffer.data(), bytes); !copied) { return copied; }
        auto event = device_->record(*stream_);
        if (!event) { return base::pass_on(event); }
        stage.copied = std::move(*event);
        turn_ = 1 - turn_;
        return {};
    }

    /// The same for `rows` rows of bf16, which become fp8 on the device: `scales` are those of these rows.
    Result<void> send_rounded(std::byte* target, float* scales, std::uint32_t rows, std::uint32_t width,
                              const RowQuantizer& quantize) {
        // On one stream: the copy waits until the rows before have been rounded.
        const std::size_t bytes = std::size_t{rows} * width * element_bytes(SourceFormat::bf16);
        if (auto sent = send(on_device_.data(), bytes); !sent) { return sent; }
        return quantize(on_device_.data(), rows, width, target, scales, *stream_);
    }

    Result<void> finish() { return stream_->synchronize(); }

private:
    struct Stage {
        device::Buffer buffer;
        std::unique_ptr<device::Event> copied;
    };

    explicit Stages(device::Device& device) : device_(&device) {}

    device::Device* device_;
    std::array<Stage, 2> stages_;
    device::Buffer on_device_;                // of send_rounded()
    std::unique_ptr<device::Stream> stream_;  // gone before the buffers that it works on
    std::size_t turn_ = 0;
};

/// What rows of a matrix are copied as.
SourceFormat copied_as(WeightFormat format) {
    return format == WeightFormat::f32 ? SourceFormat::f32 : SourceFormat::bf16;
}

std::size_t row_bytes_of(const PackedItem& item) {
    return item.inputs == 0 ? item.bytes : item.inputs * element_bytes(copied_as(item.format));
}

/// Fills a stage with the next rows, or with a whole vector. Error: check_weights().
Result<void> read_checked(const Checkpoint& checkpoint, const PackedItem& item, std::span<const SourceTensor> tensors,
                          std::uint32_t begin, std::uint32_t rows, bool is_stored_fp8, std::byte* stage) {
    if (item.inputs == 0) {
        const std::span<float> values(reinterpret_cast<float*>(stage), item.outputs);
        read_vector(tensors, values);
        return check_weights(checkpoint, item, tensors, 0, std::as_bytes(values), SourceFormat::f32);
    }
    if (is_stored_fp8) {
        read_rows_fp8(item, tensors, begin, rows, stage);
        return check_weights_fp8(checkpoint, item, tensors, begin, {stage, std::size_t{rows} * item.inputs});
    }
    const SourceFormat format = copied_as(item.format);
    read_rows(item, tensors, begin, rows, format, stage);
    const std::size_t bytes = std::size_t{rows} * item.inputs * element_bytes(format);
    return check_weights(checkpoint, item, tensors, begin, {stage, bytes}, format);
}

}  // namespace

Result<device::Buffer> upload_weights(const Checkpoint& checkpoint, const PackingPlan& plan, device::Device& device,
                                      const RowQuantizer& quantize,
                                      const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
    CHECK(plan.order == WeightOrder::row_major);
    auto memory = device.allocate(plan.file_bytes);
    if (!memory) { return base::pass_on(memory, "weights of " + std::to_string(plan.file_bytes >> 20) + " MiB"); }
    std::size_t stage_bytes = kStageBytes;
    for (const PackedItem& item : plan.items) {  // a row, a vector, and the scales, are copied in one piece
        stage_bytes = std::max({stage_bytes, row_bytes_of(item), item.scale_count() * sizeof(float)});
    }
    auto stages = Stages::make(device, stage_bytes, plan.format == WeightFormat::fp8);
    if (!stages) { return base::pass_on(stages); }
    for (const PackedItem& item : plan.items) {
        const std::vector<SourceTensor> tensors = tensors_of(checkpoint, item);
        const bool is_fp8 = item.format == WeightFormat::fp8;
        const bool is_stored_fp8 =
            is_fp8 && are_stored_fp8(item, tensors);  // goes as it is, with the checkpoint's scales
        const bool is_rounded = is_fp8 && !is_stored_fp8;
        CHECK(!is_rounded || item.scale_shape == ScaleShape{}, item.name << ": rows are rounded with one scale each");
        const std::size_t row_bytes = is_stored_fp8 ? item.inputs : row_bytes_of(item);
        const std::size_t target_row_bytes = is_fp8 ? item.inputs : row_bytes;
        const std::uint32_t rows_total = item.inputs == 0 ? 1 : item.outputs;
        const auto rows_max = static_cast<std::uint32_t>(std::min<std::size_t>(stage_bytes / row_bytes, rows_total));
        std::byte* const begin_of_item = memory->data() + item.offset;
        for (std::uint32_t begin = 0; begin < rows_total; begin += rows_max) {
            const std::uint32_t rows = std::min(rows_max, rows_total - begin);
            const auto stage = stages->next();
            if (!stage) { return base::pass_on(stage, item.name); }
            const auto read = read_checked(checkpoint, item, tensors, begin, rows, is_stored_fp8, *stage);
            if (!read) { return base::pass_on(read); }
            std::byte* const target = begin_of_item + begin * target_row_bytes;
            float* const scales = reinterpret_cast<float*>(begin_of_item + item.scales_offset()) + begin;
            const auto sent = is_rounded ? stages->send_rounded(target, scales, rows, item.inputs, quantize)
                                         : stages->send(target, rows * row_bytes);
            if (!sent) { return base::pass_on(sent, item.name); }
            if (progress) { progress(item.offset + (begin + rows) * target_row_bytes, plan.file_bytes); }
        }
        if (is_stored_fp8) {
            const auto stage = stages->next();
            if (!stage) { return base::pass_on(stage, item.name); }
            const std::size_t scales = item.scale_count();
            const std::span<float> values(reinterpret_cast<float*>(*stage), scales);
            read_scales(item, tensors, values);
            if (auto checked = check_scale_values(checkpoint, item, tensors, values); !checked) {
                return base::pass_on(checked);
            }
            const auto sent = stages->send(begin_of_item + item.scales_offset(), scales * sizeof(float));
            if (!sent) { return base::pass_on(sent, item.name); }
        }
    }
    if (auto finished = stages->finish(); !finished) { return base::pass_on(finished); }
    if (progress) { progress(plan.file_bytes, plan.file_bytes); }
    return std::move(*memory);
}

}  // namespace engine
