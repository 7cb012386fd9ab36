#include "tests/gateway/support.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>

#include "base/log.h"

namespace gateway_test {
namespace {

/// Losses and retries are what these tests are about: their log lines are noise here.
constexpr std::array<std::string_view, 3> kSpecialTexts = {"<s>", "</s>", "<|end|>"};

const bool kQuiet = (spdlog::set_level(spdlog::level::off), true);

class ByteDetokenizer final : public gateway::Detokenizer {
public:
    explicit ByteDetokenizer(bool skip_special) : skip_special_(skip_special) {}
    std::string push(base::TokenId token) override {
        if (token >= kBos) { return skip_special_ ? std::string() : ByteText().token_bytes(token); }
        const auto byte = static_cast<unsigned char>(token);
        held_ += static_cast<char>(byte);
        if ((byte & 0xe0) == 0xc0) { return {}; }  // the first of two
        return std::exchange(held_, {});
    }
    std::string flush() override { return held_.empty() ? std::string() : "\xef\xbf\xbd"; }

private:
    bool skip_special_;
    std::string held_;
};

}  // namespace

base::Result<Tokens> ByteText::encode(std::string_view text, bool add_special, bool parse_special,
                                      std::span<const std::size_t> text_starts) const {
    static_cast<void>(kQuiet);
    Tokens tokens;
    if (add_special) { tokens.push_back(kBos); }
    const std::size_t size = text.size();
    while (!text.empty()) {
        const bool is_text = std::binary_search(text_starts.begin(), text_starts.end(), size - text.size());
        bool is_special = false;
        for (std::size_t index = 0; parse_special && !is_text && index < kSpecialTexts.size(); ++index) {
            if (text.starts_with(kSpecialTexts[index])) {
                tokens.push_back(kBos + static_cast<base::TokenId>(index));
                text.remove_prefix(kSpecialTexts[index].size());
                is_special = true;
                break;
            }
        }
        if (is_special) { continue; }
        tokens.push_back(static_cast<unsigned char>(text.front()));
        text.remove_prefix(1);
    }
    return tokens;
}

std::string ByteText::token_bytes(base::TokenId token) const {
    if (token >= kBos) { return std::string(kSpecialTexts[static_cast<std::size_t>(token - kBos)]); }
    return std::string(1, static_cast<char>(token));
}

std::unique_ptr<gateway::Detokenizer> ByteText::detokenizer(bool skip_special) const {
    return std::make_unique<ByteDetokenizer>(skip_special);
}

base::Result<std::string> ByteText::render_chat(std::string_view context_json, std::int64_t) const {
    std::string text;
    const auto context = boost::json::parse(context_json).as_object();
    if (shows_tools && context.contains("tools")) {
        for (const auto& tool : context.at("tools").as_array()) {
            text += "tool:" + std::string(tool.at("function").at("name").as_string().c_str()) + ";";
        }
    }
    for (const auto& message : context.at("messages").as_array()) {
        std::string content;
        if (message.at("content").is_array()) {
            for (const auto& part : message.at("content").as_array()) {
                content += std::string_view(part.at("text").as_string());
            }
        } else {
            content = std::string_view(message.at("content").as_string());
        }
        if (const auto* name = message.as_object().if_contains("name")) {
            content = std::string(std::string_view(name->as_string())) + "," + content;
        }
        if (content == "refuse me") { return base::fail(base::ErrorCode::invalid_argument, "the template refuses"); }
        text += std::string(message.at("role").as_string().c_str()) + ":" + content + "<|end|>";
    }
    if (const auto* documents = context.if_contains("documents")) { text += boost::json::serialize(*documents); }
    if (const auto* extra = context.if_contains("extra")) { text += boost::json::serialize(*extra); }
    if (context.at("add_generation_prompt").as_bool()) { text += "assistant:"; }
    return text;
}

base::TokenId FakeModel::next(const proto::Sampling& sampling, const Tokens& tokens) const {
    std::uint64_t state = sampling.seed() * 0x9e3779b97f4a7c15ull + sampling.choice() + 1;
    for (const base::TokenId token : tokens) {
        state = (state ^ static_cast<std::uint64_t>(token)) * 0x100000001b3ull;
    }
    state ^= state >> 29;
    if (!tokens.empty() && tokens.back() == 0xc3) { return 0xa9; }  // the second byte of "e" with an accent
    if (eos_every > 0 && state % eos_every == 0) { return kEos; }
    if ((state >> 8) % 9 == 0) { return 0xc3; }
    return static_cast<base::TokenId>('a' + (state >> 16) % 6);
}

Tokens FakeModel::run(const gateway::GenerationRequest& request) const {
    Tokens all = *request.prompt;
    Tokens generated;
    while (generated.size() < request.new_tokens_max) {
        const base::TokenId token = next(request.sampling, all);
        all.push_back(token);
        generated.push_back(token);
        if (std::find(request.stop_tokens.begin(), request.stop_tokens.end(), token) != request.stop_tokens.end()) {
            break;
        }
    }
    return generated;
}

proto::SequenceOutput FakeWorker::output_for(const Key& key) const {
    proto::SequenceOutput result;
    result.set_request_id(key.first);
    result.set_epoch(key.second);
    return result;
}

void FakeWorker::take(const proto::WorkerCommand& command) {
    if (command.has_start()) {
        const proto::Start& start = command.start();
        Sequence& sequence = sequences_[{start.request_id(), start.epoch()}];
        sequence.start = start;
        sequence.tokens.assign(start.prompt().begin(), start.prompt().end());
        sequence.tokens.insert(sequence.tokens.end(), start.generated().begin(), start.generated().end());
        sequence.generated = static_cast<std::uint32_t>(start.generated_size());
        sequence.may_go_on = start.part() != proto::Start::PART_DECODE;
    } else if (command.has_go_on()) {
        const auto at = sequences_.find({command.go_on().request_id(), command.go_on().epoch()});
        if (at == sequences_.end()) { return; }
        Sequence& sequence = at->second;
        sequence.tokens.assign(sequence.start.prompt().begin(), sequence.start.prompt().end());
        sequence.tokens.insert(sequence.tokens.end(), command.go_on().tokens().begin(), command.go_on().tokens().end());
        sequence.generated = static_cast<std::uint32_t>(command.go_on().tokens_size());
        sequence.may_go_on = true;
    } else if (command.has_cancel()) {
        sequences_.erase({command.cancel().request_id(), command.cancel().epoch()});
    }
}

void FakeWorker::step() {
    std::vector<Key> over;
    for (auto& [key, sequence] : sequences_) {
        if (!sequence.may_go_on) { continue; }
        proto::SequenceOutput result = output_for(key);
        if (sequence.handed) {
            result.set_finish(proto::SequenceOutput::FINISH_HANDED_OVER);
            outputs_.push_back(result);
            over.push_back(key);
            continue;
        }
        const base::TokenId token = model_.next(sequence.start.sampling(), sequence.tokens);
        sequence.tokens.push_back(token);
        ++sequence.generated;
        result.add_tokens()->set_token(token);
        const auto& stops = sequence.start.stop().stop_token_ids();
        if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
            result.set_finish(proto::SequenceOutput::FINISH_STOP);
        } else if (sequence.generated >= sequence.start.stop().new_tokens_max()) {
            result.set_finish(proto::SequenceOutput::FINISH_LENGTH);
        } else if (sequence.start.part() == proto::Start::PART_PREFILL) {
            sequence.handed = true;
        }
        if (result.finish() != proto::SequenceOutput::FINISH_NONE) { over.push_back(key); }
        outputs_.push_back(result);
    }
    for (const Key& key : over) {
        sequences_.erase(key);
    }
}

void FakeWorker::fail_one(std::size_t pick, base::ErrorCode code) {
    if (sequences_.empty()) { return; }
    const auto at = std::next(sequences_.begin(), static_cast<std::ptrdiff_t>(pick % sequences_.size()));
    proto::SequenceOutput result = output_for(at->first);
    result.set_finish(proto::SequenceOutput::FINISH_ERROR);
    result.mutable_error()->set_code(static_cast<std::uint32_t>(base::grpc_status_number(code)));
    result.mutable_error()->set_message("made to fail");
    outputs_.push_back(result);
    sequences_.erase(at);
}

proto::WorkerEndpoint make_endpoint(std::uint64_t worker, std::uint64_t incarnation) {
    proto::WorkerEndpoint endpoint;
    endpoint.set_worker_id(worker);
    endpoint.set_incarnation(incarnation);
    endpoint.set_control_address("worker-" + std::to_string(worker));
    return endpoint;
}

proto::PlaceReply split_placement(const proto::WorkerEndpoint& prefill, const proto::WorkerEndpoint& decode) {
    proto::PlaceReply reply;
    *reply.mutable_placement()->mutable_prefill() = prefill;
    *reply.mutable_placement()->mutable_decode() = decode;
    reply.mutable_placement()->set_path("disaggregated");
    reply.mutable_placement()->mutable_kv_mode()->set_codec("test");
    reply.mutable_placement()->mutable_kv_source()->set_kv_tokens(160);
    reply.mutable_header()->set_numerics_id(77);
    return reply;
}

proto::PlaceReply local_placement(const proto::WorkerEndpoint& worker) {
    proto::PlaceReply reply = split_placement(worker, worker);
    reply.mutable_placement()->set_path("local");
    return reply;
}

proto::PlaceReply refusal(base::ErrorCode code, std::uint32_t retry_after_ms, std::string message) {
    proto::PlaceReply reply;
    reply.mutable_refusal()->mutable_error()->set_code(static_cast<std::uint32_t>(base::grpc_status_number(code)));
    reply.mutable_refusal()->mutable_error()->set_message(std::move(message));
    reply.mutable_refusal()->set_retry_after_ms(retry_after_ms);
    return reply;
}

proto::DescribeReply description(bool ready, std::uint32_t context_tokens) {
    proto::DescribeReply reply;
    proto::ModelState& state = *reply.add_models();
    state.set_model("m");
    state.set_numerics_id(77);
    state.set_block_tokens(4);
    state.set_context_tokens(context_tokens);
    state.set_ready(ready);
    return reply;
}

proto::DescribeReply description_of(const std::vector<std::string>& models, std::uint32_t context_tokens) {
    proto::DescribeReply reply;
    for (std::size_t index = 0; index < models.size(); ++index) {
        proto::ModelState& state = *reply.add_models();
        state = description(true, context_tokens).models(0);
        state.set_model(models[index]);
        state.set_numerics_id(index + 1);
    }
    return reply;
}

std::vector<proto::WorkerCommand> RecordingPorts::sent_to(std::uint64_t incarnation) const {
    std::vector<proto::WorkerCommand> commands;
    for (const auto& [to, command] : sent) {
        if (to == incarnation) { commands.push_back(command); }
    }
    return commands;
}

gateway::Models make_models(const std::vector<std::string>& names, const std::vector<std::string>& aliases) {
    std::vector<gateway::ServedModel> models;
    for (const std::string& name : names) {
        models.push_back({.name = name, .text = std::make_shared<ByteText>()});
    }
    return gateway::Models::make(std::move(models), aliases).value();
}

Owner::Owner(gateway::RequestOptions options, gateway::Models given)
    : models(std::move(given)),
      rows(metrics, models.own_names()),
      table({.scheduler = ports,
             .workers = ports,
             .models = models,
             .clock = clock,
             .metrics = rows,
             .options = options,
             .hash_key = {},
             .seed = 5}) {
    table.on_cluster(description());
}

gateway::GenerationRequest Owner::request(std::string_view prompt, std::uint32_t new_tokens_max) const {
    gateway::GenerationRequest result;
    result.prompt = std::make_shared<const Tokens>(*text.encode(prompt, true, false));
    result.sampling.set_seed(9);
    result.stop_tokens = {kEos};
    result.new_tokens_max = new_tokens_max;
    return result;
}

proto::SequenceOutput output(base::RequestId id, std::uint32_t epoch, std::string_view text,
                             proto::SequenceOutput::Finish finish) {
    proto::SequenceOutput result;
    result.set_request_id(base::raw(id));
    result.set_epoch(epoch);
    for (const char c : text) {
        result.add_tokens()->set_token(static_cast<unsigned char>(c));
    }
    result.set_finish(finish);
    return result;
}

proto::SequenceOutput error_output(base::RequestId id, std::uint32_t epoch, base::ErrorCode code) {
    proto::SequenceOutput result = output(id, epoch, "", proto::SequenceOutput::FINISH_ERROR);
    result.mutable_error()->set_code(static_cast<std::uint32_t>(base::grpc_status_number(code)));
    result.mutable_error()->set_message("made to fail");
    return result;
}

}  // namespace gateway_test
