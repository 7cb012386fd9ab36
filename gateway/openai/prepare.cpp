#include "gateway/openai/prepare.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "gateway/openai/data_marks.h"
#include "gateway/openai/fields.h"
#include "gateway/openai/token_prefixes.h"
#include "gateway/openai/tool_form.h"

namespace gateway {
namespace {

using Tokens = std::vector<base::TokenId>;

/// Where `part` begins last in `text`. Linear (Knuth, Morris and Pratt, from the end), whatever people write.
std::size_t last_place(std::string_view part, std::string_view text) {
    const auto from_end = [](std::string_view one, std::size_t at) { return one[one.size() - 1 - at]; };
    std::vector<std::size_t> border(part.size(), 0);  // of the last (index + 1) bytes
    for (std::size_t at = 1, length = 0; at < part.size(); ++at) {
        while (length > 0 && from_end(part, at) != from_end(part, length)) {
            length = border[length - 1];
        }
        if (from_end(part, at) == from_end(part, length)) { ++length; }
        border[at] = length;
    }
    for (std::size_t at = 0, length = 0; at < text.size(); ++at) {
        while (length > 0 && from_end(text, at) != from_end(part, length)) {
            length = border[length - 1];
        }
        if (from_end(text, at) == from_end(part, length)) { ++length; }
        if (length == part.size()) { return text.size() - 1 - at; }
    }
    return std::string_view::npos;
}

ApiResult<void> cut_after_last_message(const std::optional<std::string>& continued_text,
                                       DataMarks::Rendered& rendered) {
    if (!continued_text) { return {}; }
    std::string_view last = *continued_text;
    while (!last.empty() && std::string_view(" \t\r\n").find(last.back()) != std::string_view::npos) {
        last.remove_suffix(1);
    }
    while (!last.empty() && std::string_view(" \t\r\n").find(last.front()) != std::string_view::npos) {
        last.remove_prefix(1);
    }
    const auto at = last.empty() ? std::string_view::npos : last_place(last, rendered.text);
    if (at == std::string::npos) {
        return bad_request("continue_final_message", "the chat template does not show the text of the last message");
    }
    rendered.text.resize(at + last.size());
    while (!rendered.text_starts.empty() && rendered.text_starts.back() >= rendered.text.size()) {
        rendered.text_starts.pop_back();
    }
    return {};
}

ApiError too_long(std::uint32_t context, std::size_t prompt, std::uint32_t completion, std::string_view param) {
    ApiError error =
        bad_request(param, "This model's maximum context length is " + std::to_string(context) +
                               " tokens. However, you requested " + std::to_string(prompt + completion) + " tokens (" +
                               std::to_string(prompt) + " in the prompt, " + std::to_string(completion) +
                               " for the completion). Please reduce the length of " + "the prompt or the completion.")
            .value();
    error.code = "context_length_exceeded";
    error.prompt_tokens = static_cast<std::uint32_t>(prompt);
    error.context_tokens = context;
    return error;
}

/// Leaves the last `count` tokens; of a text that begins with BOS the BOS and the last ones, as transformers truncates.
void keep_last(Tokens& tokens, std::uint32_t count, std::optional<base::TokenId> bos) {
    const bool keeps_first = bos && tokens.front() == *bos;
    const auto last = static_cast<std::ptrdiff_t>(keeps_first ? count - 1 : count);
    tokens.erase(tokens.begin() + (keeps_first ? 1 : 0), tokens.end() - last);
}

std::optional<base::TokenId> first_beyond(const Tokens& tokens, std::uint32_t vocabulary) {
    for (const base::TokenId token : tokens) {
        if (static_cast<std::uint32_t>(token) >= vocabulary) { return token; }
    }
    return std::nullopt;
}

std::string decode(const Tokens& tokens, bool skip_special, const TextPort& text) {
    const auto detokenizer = text.detokenizer(skip_special);
    std::string result;
    for (const base::TokenId token : tokens) {
        result += detokenizer->push(token);
    }
    return result + detokenizer->flush();
}

/// For each token the code points of text that those before it made.
std::vector<std::size_t> text_offsets(const Tokens& tokens, bool skip_special, const TextPort& text) {
    const auto detokenizer = text.detokenizer(skip_special);
    std::vector<std::size_t> offsets;
    std::size_t produced = 0;
    for (const base::TokenId token : tokens) {
        offsets.push_back(produced);
        produced += code_points(detokenizer->push(token));
    }
    return offsets;
}

std::size_t text_bytes(const RequestForm& form) {
    std::size_t bytes = form.user_text_bytes + form.suffix.size();
    for (const auto& one : form.prompts) {
        if (const auto* written = std::get_if<std::string>(&one)) { bytes += written->size(); }
    }
    return bytes;
}

/// Each record of a token holds its own logprob and the top ones; all of them wait in memory until they are written.
ApiResult<void> check_logprob_records(const PreparedRequest& prepared, const RequestForm& form,
                                      std::uint64_t records_max) {
    if (!form.logprobs) { return {}; }
    std::uint64_t tokens = prepared.prompts.size() * std::uint64_t{prepared.new_tokens_max};
    for (const auto& prompt : prepared.prompts) {
        if (form.echo) { tokens += prompt.tokens->size(); }
    }
    const std::uint64_t records = form.n * tokens * (std::uint64_t{form.top_logprobs} + 1);
    if (records <= records_max) { return {}; }
    return bad_request("logprobs", "this request may need " + std::to_string(records) + " logprobs (" +
                                       std::to_string(form.n) + " choices of " +
                                       std::to_string(prepared.prompts.size()) + " prompts, " + std::to_string(tokens) +
                                       " tokens for one choice of each, " + std::to_string(form.top_logprobs) +
                                       " top logprobs); at most " + std::to_string(records_max) +
                                       " are given. Please reduce max_tokens, n or the top logprobs.");
}

/// A template of the request's own is believed to show them.
bool takes_tools(const RequestForm& form, const TextPort& text) {
    return text.takes_tools() || !form.own_template.empty();
}

/// The model may call or not, and cannot be told of its tools: then it does not.
bool leaves_tools_out(const RequestForm& form, const FormLimits& limits, const TextPort& text) {
    return limits.leaves_tools_out && form.tools.choice == ToolsForm::Choice::automatic && !takes_tools(form, text);
}

/// The tokens of a text and of what stands behind the middle that is asked for, each behind its mark. The beginning of
/// a text stays where it was.
Tokens with_middle_missing(Tokens before, const Tokens& behind, const FillMarks& marks,
                           std::optional<base::TokenId> bos) {
    const bool has_bos = bos && !before.empty() && before.front() == *bos;
    before.insert(before.begin() + (has_bos ? 1 : 0), marks.prefix);
    before.push_back(marks.suffix);
    before.insert(before.end(), behind.begin(), behind.end());
    before.push_back(marks.middle);
    return before;
}

/// What is asked of the texts before any work is put into them.
ApiResult<void> check_text(const RequestForm& form, const FormLimits& limits, const TextPort& text) {
    if (const std::size_t bytes = text_bytes(form); bytes > limits.text_bytes_max) {
        return bad_request(form_of(form.endpoint).prompt_field,
                           "the request has " + std::to_string(bytes) + " bytes of text; at most " +
                               std::to_string(limits.text_bytes_max) + " are read");
    }
    if (form.needs_tools && !takes_tools(form, text) && !leaves_tools_out(form, limits, text)) {
        const bool is_forced = form.tools.is_forced();
        return bad_request(form.tools_field,
                           "'" + form.tools_field +
                               "' cannot be shown to this model: its chat template takes no tools (with the choice " +
                               (is_forced && limits.leaves_tools_out ? "\"auto\" or \"none\"" : "\"none\"") +
                               " they are left out)");
    }
    return {};
}

ApiError grammar_error(const base::Error& error, const std::string& field) {
    ApiError result = text_error(error, field);
    if (result.status == 400) { result.message = "'" + field + "' cannot be kept to: " + error.message; }
    return result;
}

/// Whether answers can be made to keep to the grammar of `form`, where it has one.
ApiResult<void> check_grammar(const RequestForm& form, const FormLimits& limits, const TextPort& text) {
    if (form.grammar == nullptr) { return {}; }
    if (form.grammar->text().size() > limits.grammar_bytes_max) {
        return bad_request(form.grammar_field, "'" + form.grammar_field + "' make a grammar of " +
                                                   std::to_string(form.grammar->text().size()) + " bytes; at most " +
                                                   std::to_string(limits.grammar_bytes_max) + " are taken");
    }
    const auto& checked_one = form.grammar_to_check != nullptr ? form.grammar_to_check : form.grammar;
    if (const auto checked = text.check_grammar(*checked_one); !checked) {
        return pass_on(grammar_error(checked.error(), form.grammar_field));
    }
    return {};
}

/// The template has opened the reasoning: the answer begins inside.
bool opens_reasoning(std::string_view prompt) {
    while (!prompt.empty() && std::string_view(" \t\r\n").find(prompt.back()) != std::string_view::npos) {
        prompt.remove_suffix(1);
    }
    return prompt.ends_with("<think>");
}

/// The tools as an answer keeps to them in which the model decides itself whether it calls. Only strict ones were
/// promised anything; the others keep to their schemas, too, where the server wants that and the library can do it.
ToolsForm kept_tools(const ToolsForm& tools, ToolFormat format, const FormLimits& limits, const TextPort& text) {
    if (!limits.all_calls_by_schema) { return tools; }
    bool is_too_much = false;  // then no further one is tried: each might take as long as a grammar may
    const auto can_be_kept = [&](const ToolsForm& kept) {
        if (is_too_much) { return false; }
        const proto::Grammar grammar = open_grammar(kept, format, {});
        is_too_much = grammar.text().size() > limits.grammar_bytes_max;
        if (is_too_much) { return false; }
        const auto checked = text.check_grammar(grammar);
        is_too_much = !checked && checked.error().code == base::ErrorCode::resource_exhausted;
        return checked.has_value();
    };
    ToolsForm all = tools;
    for (ToolsForm::Tool& tool : all.tools) {
        tool.strict = true;
    }
    if (can_be_kept(all)) { return all; }
    for (std::size_t index = 0; index < all.tools.size(); ++index) {
        if (tools.tools[index].strict) { continue; }
        const ToolsForm alone{.tools = {all.tools[index]}, .choice = tools.choice, .parallel = tools.parallel};
        all.tools[index].strict = can_be_kept(alone);
    }
    return can_be_kept(all) ? all : tools;
}

/// How the answer to a chat is to be read, and what it keeps to where it must be a call.
void set_up_reader(const PrepareContext& context, std::string_view prompt, PreparedRequest& prepared,
                   RequestForm& form) {
    const AnswerStyle style = context.text.answer_style();
    ToolFormat format = context.limits.tool_format.value_or(style.tools);
    prepared.reader.reasons = style.reasons;
    prepared.reader.begins_reasoning = style.reasons && opens_reasoning(prompt);
    prepared.shows_marks = style.reasons && style.marks_are_special;
    if (style.reasons) {
        prepared.reasoning = base::ReasoningRule{.begin = style.reasoning_begin,
                                                 .end = style.reasoning_end,
                                                 .is_begun = prepared.reader.begins_reasoning,
                                                 .tokens_max = form.reasoning_tokens_max};
        if (!form.reasoning_tokens_max && !form.reasoning_unbounded) {
            prepared.reasoning->tokens_max = context.limits.reasoning_tokens_max;
        }
    }
    if (leaves_tools_out(form, context.limits, context.text)) {
        form.tools.choice = ToolsForm::Choice::none;
        prepared.tools_left_out = true;
    }
    if (form.tools.is_forced() && form.grammar_is_answers) {  // there is no answer but calls
        form.grammar = nullptr;
        form.grammar_is_answers = false;
    }
    std::string answer_schema;
    if (form.grammar_is_answers && form.tools.choice == ToolsForm::Choice::automatic && format != ToolFormat::none &&
        !form.tools.tools.empty()) {
        answer_schema = answer_schema_of(*form.grammar);
    }
    if (form.grammar != nullptr && answer_schema.empty()) { return; }  // what follows the reasoning is content
    if (form.tools.is_forced()) {
        form.grammar = std::make_shared<const proto::Grammar>(call_grammar(form.tools, format));
        form.grammar_field = form.tools_field;
        if (format != ToolFormat::hermes && format != ToolFormat::llama3) { format = ToolFormat::json; }
    }
    const bool is_open = form.tools.choice == ToolsForm::Choice::automatic && format != ToolFormat::none &&
                         form.new_tokens_min == 0 && !form.tools.tools.empty();
    if (is_open) { form.tools = kept_tools(form.tools, format, context.limits, context.text); }
    const bool any_strict = std::any_of(form.tools.tools.begin(), form.tools.tools.end(),
                                        [](const ToolsForm::Tool& tool) { return tool.strict; });
    if (is_open && (any_strict || !answer_schema.empty())) {
        const bool is_own = format == style.tools;  // else its marks are text here
        form.grammar = std::make_shared<const proto::Grammar>(
            open_grammar(form.tools, format, is_own ? style.marks : std::vector<base::TokenId>(), answer_schema));
        form.grammar_to_check =
            std::make_shared<const proto::Grammar>(open_grammar(form.tools, format, {}, answer_schema));
        form.grammar_field = form.tools_field;
    }
    if (form.tools.choice != ToolsForm::Choice::none) {
        ToolStream::Options tools{.format = format,
                                  .is_begun = form.tools.is_forced() && format != ToolFormat::hermes,
                                  .answers_in_json = !answer_schema.empty()};
        for (const ToolsForm::Tool& tool : form.tools.tools) {
            tools.names.push_back(tool.name);
        }
        prepared.reader.tools = std::move(tools);
    }
    prepared.shows_marks = prepared.reader.does_anything() && style.marks_are_special;
}

constexpr std::uint64_t kKeptTimes = 8;  // a context, that a text may be long of which only the end is kept

}  // namespace

ApiError text_error(const base::Error& error, std::string_view param) {
    ApiError result = bad_request(param, error.message).value();
    if (error.code == base::ErrorCode::internal || error.code == base::ErrorCode::unimplemented ||
        error.code == base::ErrorCode::unavailable) {
        result = api_error(error, 0);  // may name files
        result.param = std::string(param);
    }
    return result;
}

ApiResult<void> check_fits(std::uint64_t bytes, const RequestForm& form, const PrepareContext& context,
                           std::string_view what) {
    const std::uint64_t token_bytes = context.text.token_bytes_max();
    if (token_bytes == 0) { return {}; }
    const std::uint64_t least = bytes / token_bytes;
    const std::uint32_t context_tokens = context.cluster.context_tokens;
    if (least <= context_tokens * (form.prompt_tokens_kept ? kKeptTimes : 1)) { return {}; }
    ApiError error{.status = 400,
                   .message = "This model's maximum context length is " + std::to_string(context_tokens) +
                              " tokens. However, " + std::string(what) + " " + std::to_string(bytes) +
                              " bytes, which count as at least " + std::to_string(least) +
                              " tokens. Please reduce the length."};
    error.param = std::string(form_of(form.endpoint).prompt_field);
    error.code = "context_length_exceeded";
    error.prompt_tokens = static_cast<std::uint32_t>(std::min<std::uint64_t>(least, ~std::uint32_t{0}));
    error.context_tokens = context_tokens;
    return pass_on(std::move(error));
}

ApiResult<ChatPrompt> chat_prompt(RequestForm& form, const FormLimits& limits, const TextPort& text,
                                  std::int64_t now_unix_s, TokenPrefixes* prefixes) {
    if (auto checked = check_text(form, limits, text); !checked) { return pass_on(checked.error()); }
    std::string context = std::move(form.template_context);
    form.template_context = {};
    const auto continued_text = std::exchange(form.continued_text, std::nullopt);
    DataMarks marks(text.special_texts());
    auto marked = marks.mark(std::move(context));
    if (!marked) { return pass_on(marked.error()); }
    auto output = form.own_template.empty() ? text.render_chat(*marked, now_unix_s)
                                            : text.render_by(form.own_template, *marked, now_unix_s);
    if (!output && !form.own_template.empty()) { return pass_on(text_error(output.error(), "chat_template")); }
    if (!output) { return pass_on(text_error(output.error(), form_of(form.endpoint).prompt_field)); }
    DataMarks::Rendered rendered = marks.unmark(std::move(*output));
    if (!form.own_template.empty() && rendered.text.size() > limits.text_bytes_max) {
        return bad_request("chat_template", "the chat template makes a prompt of " +
                                                std::to_string(rendered.text.size()) + " bytes; at most " +
                                                std::to_string(limits.text_bytes_max) + " are read");
    }
    if (auto cut = cut_after_last_message(continued_text, rendered); !cut) { return pass_on(cut.error()); }
    const bool add_special = form.add_special.value_or(form_of(form.endpoint).adds_special);
    auto tokens = prefixes == nullptr
                      ? text.encode(rendered.text, add_special, true, rendered.text_starts)
                      : prefixes->encode(text, rendered.text, add_special, rendered.text_starts, form.cache_scope);
    if (!tokens) { return pass_on(text_error(tokens.error(), form_of(form.endpoint).prompt_field)); }
    return ChatPrompt{std::move(rendered.text), std::move(*tokens)};
}

ApiResult<PreparedRequest> prepare(RequestForm form, const PrepareContext& context) {
    const FormLimits& limits = context.limits;
    const TextPort& text = context.text;
    const std::uint32_t context_tokens = context.cluster.context_tokens;
    const EndpointForm& endpoint = form_of(form.endpoint);
    const std::string_view param = endpoint.prompt_field;
    struct Written {
        Tokens tokens;
        std::string shown;
        bool is_text = true;  // not given as ids
    };
    std::vector<Written> prompts;
    PreparedRequest prepared;
    if (endpoint.is_chat) {
        if (auto fits = check_fits(form.user_text_bytes, form, context, "your messages have"); !fits) {
            return pass_on(fits.error());
        }
        auto prompt = chat_prompt(form, limits, text, context.now_unix_s, context.prefixes);
        if (!prompt) { return pass_on(prompt.error()); }
        if (form.grammar_is_answers && form.tools.choice == ToolsForm::Choice::automatic) {
            // By itself first: what is wrong with it is not the tools' that it will stand beside.
            if (auto checked = check_grammar(form, limits, text); !checked) { return pass_on(checked.error()); }
        }
        set_up_reader(context, prompt->text, prepared, form);
        prompts.push_back({std::move(prompt->tokens), ""});
    } else {
        if (auto checked = check_text(form, limits, text); !checked) { return pass_on(checked.error()); }
        const auto fill = form.suffix.empty() ? std::nullopt : text.fill_marks();
        Tokens behind;
        if (!form.suffix.empty()) {
            if (!fill) {
                return pass_on(
                    bad_request("suffix",
                                "'suffix' is not supported by this model: it has no tokens by which it could "
                                "be asked for the middle of a text")
                        .value());
            }
            if (auto fits = check_fits(form.suffix.size(), form, context, "your suffix has"); !fits) {
                return pass_on(fits.error());
            }
            auto tokens = text.encode(form.suffix, false, true, {});
            if (!tokens) { return pass_on(text_error(tokens.error(), "suffix")); }
            behind = std::move(*tokens);
        }
        for (auto& one : form.prompts) {
            if (auto* tokens = std::get_if<Tokens>(&one)) {
                std::string shown = form.echo ? decode(*tokens, form.skip_special, text) : std::string();
                if (fill) { *tokens = with_middle_missing(std::move(*tokens), behind, *fill, text.bos()); }
                prompts.push_back({std::move(*tokens), std::move(shown), false});
                continue;
            }
            std::string& written = std::get<std::string>(one);
            if (auto fits = check_fits(written.size() + form.suffix.size(), form, context, "your prompt has"); !fits) {
                return pass_on(fits.error());
            }
            auto tokens = text.encode(written, form.add_special.value_or(endpoint.adds_special), true, {});
            if (!tokens) { return pass_on(text_error(tokens.error(), param)); }
            if (fill) { *tokens = with_middle_missing(std::move(*tokens), behind, *fill, text.bos()); }
            prompts.push_back({std::move(*tokens), form.echo ? std::move(written) : std::string()});
        }
        form.prompts.clear();
    }

    if (auto checked = check_grammar(form, limits, text); !checked) { return pass_on(checked.error()); }

    const bool wants_none = form.new_tokens_max == 0u;
    std::uint32_t most = form.new_tokens_max.value_or(
        form.fills_context ? context_tokens : endpoint.new_tokens_default.value_or(context_tokens));
    for (auto& [tokens, shown, is_text] : prompts) {
        if (form.prompt_tokens_kept && tokens.size() > *form.prompt_tokens_kept) {
            keep_last(tokens, *form.prompt_tokens_kept, is_text ? text.bos() : std::nullopt);
            if (form.echo) { shown = decode(tokens, form.skip_special, text); }
        }
        // An empty text is answered from the beginning of one, unless the client wants nothing added.
        if (tokens.empty() && is_text && form.add_special.value_or(true) && text.bos()) {
            tokens.push_back(*text.bos());
        }
        if (const auto beyond = first_beyond(tokens, text.vocabulary())) {
            return pass_on(
                bad_request(param, "the prompt has the token " + std::to_string(*beyond) +
                                       ", which the tokenizer knows but the model, whose vocabulary ends at " +
                                       std::to_string(text.vocabulary()) + ", does not")
                    .value());
        }
        if (tokens.empty()) { return pass_on(bad_request(param, "the prompt has no tokens").value()); }
        if (tokens.size() >= context_tokens) {
            return pass_on(too_long(context_tokens, tokens.size(), form.new_tokens_max.value_or(1), param));
        }
        const auto left = context_tokens - static_cast<std::uint32_t>(tokens.size());
        if (!form.new_tokens_max || endpoint.cuts_new_tokens) {
            most = std::min(most, left);
        } else if (*form.new_tokens_max > left) {
            return pass_on(too_long(context_tokens, tokens.size(), *form.new_tokens_max, param));
        }
        std::vector<std::size_t> offsets;
        if (form.echo && form.logprobs) { offsets = text_offsets(tokens, form.skip_special, text); }
        std::shared_ptr<const PromptHashes> hashes;
        if (!(form.echo && form.logprobs) && context.cluster.block_tokens > 0) {
            hashes = std::make_shared<const PromptHashes>(context.hash_key,
                                                          base::HashScope{.cache_scope = form.cache_scope,
                                                                          .numerics_id = context.cluster.numerics_id,
                                                                          .adapter = "",
                                                                          .block_tokens = context.cluster.block_tokens},
                                                          tokens);
        }
        prepared.prompts.push_back({std::make_shared<const Tokens>(std::move(tokens)), std::move(hashes),
                                    std::move(shown), std::move(offsets)});
    }
    if (form.new_tokens_min > most) {
        return pass_on(bad_request("min_tokens", "'min_tokens' must not be greater than the " + std::to_string(most) +
                                                     " tokens that may be generated")
                           .value());
    }
    prepared.hides_generated = wants_none;
    prepared.new_tokens_max = wants_none ? 1 : most;
    if (auto checked = check_logprob_records(prepared, form, limits.logprob_records_max); !checked) {
        return pass_on(checked.error());
    }
    prepared.form = std::move(form);
    return prepared;
}

GenerationRequest generation_request(const PreparedRequest& prepared, std::size_t prompt, std::uint32_t choice,
                                     std::uint64_t seed, const TextPort& text) {
    const RequestForm& form = prepared.form;
    const SamplingDefaults& defaults = text.sampling_defaults();
    const auto pick = [](const auto& asked, const auto& by_model, auto otherwise) {
        return asked ? *asked : by_model.value_or(otherwise);
    };
    GenerationRequest request;
    request.model = form.model;
    request.prompt = prepared.prompts[prompt].tokens;
    request.hashes = prepared.prompts[prompt].hashes;
    proto::Sampling& sampling = request.sampling;
    sampling.set_temperature(static_cast<float>(pick(form.temperature, defaults.temperature, 1.0)));
    sampling.set_top_p(static_cast<float>(pick(form.top_p, defaults.top_p, 1.0)));
    sampling.set_min_p(static_cast<float>(pick(form.min_p, defaults.min_p, 0.0)));
    sampling.set_top_k(
        static_cast<std::uint32_t>(std::max<std::int64_t>(pick(form.top_k, defaults.top_k, std::int64_t{0}), 0)));
    if (sampling.top_p() <= 0) {  // no mass at all: what is left is the likeliest token
        sampling.set_top_p(1);
        sampling.set_top_k(1);
    }
    sampling.set_repetition_penalty(
        static_cast<float>(pick(form.repetition_penalty, defaults.repetition_penalty, 1.0)));
    sampling.set_presence_penalty(static_cast<float>(form.presence_penalty));
    sampling.set_frequency_penalty(static_cast<float>(form.frequency_penalty));
    sampling.set_seed(seed);
    sampling.set_choice(choice);
    for (const auto& [token, bias] : form.logit_bias) {
        (*sampling.mutable_logit_bias())[token] = bias;
    }
    sampling.set_logprobs(form.logprobs);
    sampling.set_top_logprobs(form.top_logprobs);
    sampling.set_prompt_logprobs(form.logprobs && form.echo);
    request.stop_tokens = form.stop_tokens;
    request.stop_tokens_asked = form.stop_tokens.size();
    const auto stop_at = [&request](const std::vector<base::TokenId>& ends) {
        for (const base::TokenId end : ends) {
            auto& stops = request.stop_tokens;
            if (std::find(stops.begin(), stops.end(), end) == stops.end()) { stops.push_back(end); }
        }
    };
    if (!form.ignore_eos || form.grammar != nullptr) {  // after a grammar's end nothing else comes
        stop_at(text.eos_ids());
        if (const auto fill = form.suffix.empty() ? std::nullopt : text.fill_marks()) { stop_at(fill->ends); }
    }
    request.grammar = form.grammar;
    request.reasoning = prepared.reasoning;
    request.new_tokens_max = prepared.new_tokens_max;
    request.new_tokens_min = form.new_tokens_min;
    request.text.stop_strings = form.stop_strings;
    request.text.include_stop_string = form.include_stop_string;
    request.text.tokens_min = form.new_tokens_min;
    request.skip_special = form.skip_special && !prepared.shows_marks;
    request.cache_scope = form.cache_scope;
    return request;
}

}  // namespace gateway
