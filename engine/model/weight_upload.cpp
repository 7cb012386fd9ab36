#include "engine/model/weight_upload.h"

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

#include "base/check.h"
#include "engine/model/weight_rows.h"

namespace engine {
namespace {

using base::Result;

/// Of one of the two staging buffers: large enough for the copy engine, small beside any model that is worth a GPU.
constexpr std::size_t kStageBytes = std::size_t{16} << 20;

/// Two pinned buffers: one is filled while the other is copied.
class Stages {
public:
    static Result<Stages> make(device::Device& device, std::size_t bytes) {
        Stages stages(device);
        auto stream = device.make_stream();
        if (!stream) { return base::pass_on(stream); }
        stages.stream_ = std::move(*stream);
        for (Stage& stage : stages.stages_) {
            auto buffer = device.allocate_host(bytes);
            if (!buffer) { return base::pass_on(buffer, "staging memory for the weights"); }
            stage.buffer = std::move(*buffer);
        }
        return stages;
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

    Result<void> finish() { return stream_->synchronize(); }

private:
    struct Stage {
        device::Buffer buffer;
        std::unique_ptr<device::Event> copied;
    };

    explicit Stages(device::Device& device) : device_(&device) {}

    device::Device* device_;
    std::array<Stage, 2> stages_;
    std::unique_ptr<device::Stream> stream_;  // gone before the buffers that it copies from
    std::size_t turn_ = 0;
};

SourceFormat stored_as(WeightFormat format) {
    return format == WeightFormat::bf16 ? SourceFormat::bf16 : SourceFormat::f32;
}

}  // namespace

Result<device::Buffer> upload_weights(const Checkpoint& checkpoint, const PackingPlan& plan, device::Device& device,
                                      const std::function<void(std::uint64_t, std::uint64_t)>& progress) {
    CHECK(plan.order == WeightOrder::row_major);
    auto memory = device.allocate(plan.file_bytes);
    if (!memory) { return base::pass_on(memory, "weights of " + std::to_string(plan.file_bytes >> 20) + " MiB"); }
    const SourceFormat format = stored_as(plan.format);
    std::size_t stage_bytes = kStageBytes;
    for (const PackedItem& item : plan.items) {  // a row, and a vector, is copied in one piece
        stage_bytes =
            std::max<std::size_t>(stage_bytes, item.inputs == 0 ? item.bytes : item.inputs * element_bytes(format));
    }
    auto stages = Stages::make(device, stage_bytes);
    if (!stages) { return base::pass_on(stages); }
    for (const PackedItem& item : plan.items) {
        const std::vector<const Tensor*> tensors = tensors_of(checkpoint, item);
        const std::size_t row_bytes = item.inputs == 0 ? item.bytes : item.inputs * element_bytes(format);
        const std::uint32_t rows_total = item.inputs == 0 ? 1 : item.outputs;
        const auto rows_max = static_cast<std::uint32_t>(std::min<std::size_t>(stage_bytes / row_bytes, rows_total));
        for (std::uint32_t begin = 0; begin < rows_total; begin += rows_max) {
            const std::uint32_t rows = std::min(rows_max, rows_total - begin);
            const auto stage = stages->next();
            if (!stage) { return base::pass_on(stage, item.name); }
            if (item.inputs == 0) {
                read_vector(tensors, {reinterpret_cast<float*>(*stage), item.outputs});
            } else {
                read_rows(item, tensors, begin, rows, format, *stage);
            }
            const std::uint64_t offset = item.offset + begin * std::uint64_t{row_bytes};
            if (auto sent = stages->send(memory->data() + offset, rows * row_bytes); !sent) {
                return base::pass_on(sent, item.name);
            }
            if (progress) { progress(offset + rows * row_bytes, plan.file_bytes); }
        }
    }
    if (auto finished = stages->finish(); !finished) { return base::pass_on(finished); }
    if (progress) { progress(plan.file_bytes, plan.file_bytes); }
    return std::move(*memory);
}

}  // namespace engine
