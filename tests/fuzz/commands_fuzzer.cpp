// Commands of a gateway to a worker, as protobuf bytes: what read_start() lets through and check_start() does not
// refuse is a request that the step loop can hold. The first byte says which command.
#include <google/protobuf/stubs/logging.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "base/clock.h"
#include "base/model_shape.h"
#include "kv_cache/kv_cache.h"
#include "worker/check_start.h"
#include "worker/messages.h"

namespace {

base::ModelShape shape() {
    base::ModelShape shape;
    shape.layers = 2;
    shape.hidden = 32;
    shape.heads_q = 4;
    shape.heads_kv = 2;
    shape.head_dim = 8;
    shape.vocabulary = 100;
    shape.context_tokens = 256;
    return shape;
}

bool are_known(const std::vector<base::TokenId>& tokens) {
    for (const base::TokenId token : tokens) {
        if (token < 0 || token >= 100) { return false; }
    }
    return true;
}

void read_start(const std::uint8_t* data, int size) {
    static const base::ModelShape model = shape();
    static const kv_cache::KvCache cache({.blocks_total = 32, .block_tokens = 16});
    static const base::SystemClock clock;
    sluice::proto::Start message;
    if (!message.ParseFromArray(data, size)) { return; }
    const auto request = worker::read_start(message, worker::GatewayId{1}, clock);
    if (!request) { return; }
    static_cast<void>(worker::check_text(*request, model));
    if (worker::check_start(*request, model, cache)) { return; }
    const bool is_good = !request->prompt.empty() && are_known(request->prompt) && are_known(request->generated) &&
                         request->prompt.size() + request->generated.size() <= model.context_tokens &&
                         request->stop.new_tokens_max > 0 && std::isfinite(request->sampling.temperature) &&
                         request->slo.tpot.count() >= 0;
    if (!is_good) { std::abort(); }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* /*count*/, char*** /*arguments*/) {
    google::protobuf::SetLogHandler(nullptr);  // it tells of every text that is no UTF-8
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) { return 0; }
    const std::uint8_t* bytes = data + 1;
    const int count = static_cast<int>(size - 1);
    if (data[0] % 3 == 0) {
        read_start(bytes, count);
    } else if (data[0] % 3 == 1) {
        sluice::proto::Continue message;
        if (message.ParseFromArray(bytes, count)) {
            static_cast<void>(worker::read_continue(message, worker::GatewayId{1}));
        }
    } else {
        sluice::proto::Cancel message;
        if (message.ParseFromArray(bytes, count)) {
            static_cast<void>(worker::read_cancel(message, worker::GatewayId{1}));
        }
    }
    return 0;
}
