#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "engine/model/weights.h"

// Internal to this folder.
namespace engine {

/// Puts the items of a packing plan one behind the other.
class PlanBuilder {
public:
    PlanBuilder(WeightFormat format, WeightOrder order, ScaleShape scale_shape) : scale_shape_(scale_shape) {
        plan_.format = format;
        plan_.order = order;
        plan_.file_bytes = kPackedAlignment;
        CHECK(format != WeightFormat::fp8 || order == WeightOrder::row_major);
    }

    void matrix(std::string name, std::uint32_t inputs, std::vector<PackedItem::Source> sources) {
        add(std::move(name), inputs, plan_.format, std::move(sources));
    }
    /// Embedding and head: never fp8. They are a small part of a large model, and every logit is as exact as the head.
    void outer_matrix(std::string name, std::uint32_t inputs, std::vector<PackedItem::Source> sources) {
        const bool is_fp8 = plan_.format == WeightFormat::fp8;
        add(std::move(name), inputs, is_fp8 ? WeightFormat::bf16 : plan_.format, std::move(sources));
    }
    void vector(std::string name, std::vector<PackedItem::Source> sources) {
        add(std::move(name), 0, WeightFormat::f32, std::move(sources));
    }
    PackingPlan take() { return std::move(plan_); }

private:
    void add(std::string name, std::uint32_t inputs, WeightFormat format, std::vector<PackedItem::Source> sources) {
        PackedItem item;
        item.name = std::move(name);
        item.inputs = inputs;
        item.format = format;
        for (const auto& source : sources) {
            item.outputs += source.outputs;
        }
        item.sources = std::move(sources);
        if (format == WeightFormat::fp8) { item.scale_shape = scale_shape_; }
        item.offset = plan_.file_bytes;
        item.bytes = inputs == 0 ? std::uint64_t{item.outputs} * sizeof(float) : matrix_bytes(item);
        plan_.file_bytes = (item.offset + item.bytes + kPackedAlignment - 1) / kPackedAlignment * kPackedAlignment;
        plan_.items.push_back(std::move(item));
    }

    std::uint64_t matrix_bytes(const PackedItem& item) const {
        if (plan_.order == WeightOrder::panels) { return packed_bytes(item.format, item.outputs, item.inputs); }
        const std::uint64_t elements = std::uint64_t{item.outputs} * item.inputs;
        if (item.format == WeightFormat::fp8) { return item.scales_offset() + item.scale_count() * sizeof(float); }
        return elements * (item.format == WeightFormat::bf16 ? 2 : 4);
    }

    PackingPlan plan_;
    ScaleShape scale_shape_;
};

/// Takes the items of a plan back in their order, as they lie in `file`.
class PlanReader {
public:
    /// Both borrowed.
    PlanReader(const PackingPlan& plan, const std::byte* file) : plan_(plan), file_(file) {}

    PackedMatrix matrix() {
        const PackedItem& it = item();
        const std::byte* data = file_ + it.offset;
        const float* scales = nullptr;
        if (it.format == WeightFormat::fp8) { scales = reinterpret_cast<const float*>(data + it.scales_offset()); }
        return PackedMatrix{it.format, it.outputs, it.inputs, data, scales, it.scale_shape};
    }
    const float* vector() { return reinterpret_cast<const float*>(file_ + item().offset); }
    bool is_at_end() const { return next_ == plan_.items.size(); }

private:
    const PackedItem& item() {
        CHECK(next_ < plan_.items.size());
        return plan_.items[next_++];
    }

    const PackingPlan& plan_;
    const std::byte* file_;
    std::size_t next_ = 0;
};

}  // namespace engine
