#pragma once

#include <string_view>

namespace gateway {

struct GenerationEnd;
struct GenerationRequest;

/// Is told of every sequence that a worker was asked for, when it has ended. On the thread of its owner; must not
/// block.
class SequenceObserver {
public:
    virtual ~SequenceObserver() = default;
    /// `model`: as the cluster calls it.
    virtual void on_sequence_end(const GenerationRequest& request, const GenerationEnd& end,
                                 std::string_view model) = 0;
};

}  // namespace gateway
