#include "cli/cache.h"

#include <fmt/format.h>
#include <boost/json.hpp>
#include <cstdio>
#include <string_view>

#include "cli/ask_gateway.h"
#include "cli/explain.h"
#include "cli/process.h"

namespace cli {
namespace {

namespace json = boost::json;

const json::object* object_of(const json::object& object, std::string_view name) {
    const json::value* value = object.if_contains(name);
    return value != nullptr ? value->if_object() : nullptr;
}

const json::array* array_of(const json::object& object, std::string_view name) {
    const json::value* value = object.if_contains(name);
    return value != nullptr ? value->if_array() : nullptr;
}

/// A value of a query, as the gateway takes it: nothing of it may end or escape it.
bool is_plain(std::string_view text) {
    return text.find_first_of("&=#%+? ") == std::string_view::npos;
}

base::Result<json::object> ask_list(const CacheCommand& command, std::string path, bool with_text) {
    path += "?limit=" + std::to_string(command.limit);
    for (const auto& [name, value] : {std::pair<std::string, std::string>{"tenant", command.tenant},
                                      {"tag", command.tag},
                                      {"revision", command.revision}}) {
        if (value.empty()) { continue; }
        if (!is_plain(value)) {
            return base::fail(base::ErrorCode::invalid_argument, "--" + name + " takes a name, not '" + value + "'");
        }
        path += "&" + name + "=" + value;
    }
    if (with_text) { path += "&text=true"; }
    return ask_gateway(command.url, command.api_key, path);
}

base::Result<json::object> ask_entries(const CacheCommand& command, bool with_text) {
    return ask_list(command, "/cache/entries", with_text);
}

std::string tags_of(const json::object& one) {
    std::string tags;
    if (const json::array* all = array_of(one, "tags")) {
        for (const json::value& tag : *all) {
            if (tag.is_string()) { tags += (tags.empty() ? "" : ",") + std::string(tag.get_string()); }
        }
    }
    return tags;
}

void add_where(CLI::App& app, CacheCommand& command) {
    app.add_option("--url", command.url, "of the gateway")->capture_default_str();
    app.add_option("--api-key", command.api_key, "of scope admin, where the gateway has keys; default: SLUICE_API_KEY")
        ->envname("SLUICE_API_KEY");
    app.add_flag("--json", command.json, "as JSON");
}

void add_filter(CLI::App& app, CacheCommand& command) {
    app.add_option("--tenant", command.tenant, "whose answers");
    app.add_option("--tag", command.tag, "that depend on this (x-cache-tags of the request)");
    app.add_option("--revision", command.revision, "of a model's weights, as ls shows it");
}

void add_limit(CLI::App& app, CacheCommand& command) {
    app.add_option("--limit", command.limit, "at most so many")
        ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{10'000}))
        ->capture_default_str();
}

}  // namespace

void add_cache_stats(CLI::App& app, CacheCommand& command) {
    add_where(app, command);
}

void add_cache_ls(CLI::App& app, CacheCommand& command) {
    add_where(app, command);
    add_filter(app, command);
    add_limit(app, command);
}

void add_cache_examples(CLI::App& app, CacheCommand& command) {
    add_cache_ls(app, command);
    app.add_flag("--text", command.text, "their questions and answers, too");
}

void add_cache_export(CLI::App& app, CacheCommand& command) {
    add_cache_ls(app, command);
}

void add_cache_purge(CLI::App& app, CacheCommand& command) {
    add_where(app, command);
    add_filter(app, command);
    app.add_option("--entry", command.entry,
                   "one answer, by the x-cache-entry that came with it; or one example, by its name");
    app.add_option("--older-than", command.older_than, "90s, 10m, 2h");
    app.add_option("--near", command.near_text, "answers to questions that are like this one (of the similar ones)");
    app.add_option("--near-similarity", command.near_similarity, "how alike, for --near")
        ->check(CLI::Range(0.0, 1.0))
        ->capture_default_str();
    app.add_flag("--all", command.all, "everything");
    app.add_flag("--dry-run", command.dry_run, "says how many, and removes none");
    app.add_flag("--wrong", command.wrong, "with --entry s-..: the answer was wrong, which counts for its category");
}

base::Result<std::string> purge_body(const CacheCommand& command) {
    json::object body;
    const auto put = [&body](const char* name, const std::string& value) {
        if (!value.empty()) { body[name] = value; }
    };
    put("entry", command.entry);
    put("tenant", command.tenant);
    put("tag", command.tag);
    put("revision", command.revision);
    if (!command.older_than.empty()) {
        const auto age = parse_since(command.older_than);
        if (!age) {
            return base::fail(
                base::ErrorCode::invalid_argument,
                "--older-than takes a time from 1s to 24h like 90s, 10m or 2h, not '" + command.older_than + "'");
        }
        body["older_than_s"] = age->count();
    }
    if (!command.near_text.empty()) {
        body["near_text"] = command.near_text;
        body["near_similarity"] = command.near_similarity;
    }
    if (body.empty() && !command.all) {
        return base::fail(base::ErrorCode::invalid_argument,
                          "say which answers: --entry, --tenant, --tag, --revision, --older-than, --near, or --all");
    }
    if (command.all) { body["all"] = true; }
    if (command.dry_run) { body["dry_run"] = true; }
    if (command.wrong) { body["wrong"] = true; }
    return json::serialize(body);
}

std::string cache_stats_text(const json::object& stats) {
    std::string text;
    if (const json::object* equal = object_of(stats, "equal")) {
        text += fmt::format(
            "equal requests: {} answers, {:.1f} of {:.1f} MiB, {} evicted; {} runs of the model, {} waiters\n",
            count_of(*equal, "entries"), number_of(*equal, "bytes") / 1048576, number_of(*equal, "bytes_max") / 1048576,
            count_of(*equal, "evicted"), count_of(*equal, "runs"), count_of(*equal, "waiters"));
        if (const json::object* tenants = object_of(*equal, "tenants")) {
            for (const json::key_value_pair& tenant : *tenants) {
                if (!tenant.value().is_object()) { continue; }
                text += fmt::format("  tenant {}: {} answers, {:.1f} MiB\n", std::string_view(tenant.key()),
                                    count_of(tenant.value().get_object(), "entries"),
                                    number_of(tenant.value().get_object(), "bytes") / 1048576);
            }
        }
    }
    if (const json::object* served = object_of(stats, "served")) {
        const auto line = [&](std::string_view whom, const json::object& one) {
            if (count_of(one, "requests") == 0) { return; }
            text += fmt::format("  {}: {} of {} requests answered, {:.1f} s of the model saved\n", whom,
                                count_of(one, "hits"), count_of(one, "requests"), number_of(one, "saved_s"));
        };
        text += "since the start:\n";
        if (const json::object* tenants = object_of(*served, "tenants")) {
            for (const json::key_value_pair& tenant : *tenants) {
                if (!tenant.value().is_object()) { continue; }
                line(tenant.key().empty() ? std::string("no tenant") : "tenant " + std::string(tenant.key()),
                     tenant.value().get_object());
            }
        }
        if (const json::object* others = object_of(*served, "others")) { line("other tenants", *others); }
    }
    if (const json::object* common = object_of(stats, "common")) {
        const json::value* blurs = common->if_contains("blur");
        text += fmt::format("for all tenants: {} answers that {} of them got alike{}; {} wait for more, {:.1f} MiB\n",
                            count_of(*common, "answers"), count_of(*common, "tenants_least"),
                            blurs != nullptr && blurs->is_bool() && blurs->get_bool() ? ", in the model's time" : "",
                            count_of(*common, "waiting"), number_of(*common, "bytes") / 1048576);
    }
    if (const json::object* store = object_of(stats, "store")) {
        const json::value* up = store->if_contains("up");
        text += fmt::format("store {}: {}, {} changes written, {} lost\n", text_of(*store, "file"),
                            up != nullptr && up->is_bool() && up->get_bool() ? "well" : "FAILING",
                            count_of(*store, "written"), count_of(*store, "lost"));
    } else {
        text += "no store: a restart forgets\n";
    }
    if (const json::object* shared = object_of(stats, "shared")) {
        const auto is = [shared](const char* name) {
            const json::value* value = shared->if_contains(name);
            return value != nullptr && value->is_bool() && value->get_bool();
        };
        text += fmt::format("shared by {}: {}, {}; {} answers written, {} lost; {} were there and not served\n",
                            text_of(*shared, "server"), is("up") ? "up" : "AWAY",
                            is("current") ? "all purges are known" : "purges may be unknown: NOTHING KEPT IS SERVED",
                            count_of(*shared, "written"), count_of(*shared, "lost"), count_of(*shared, "refused"));
    }
    if (const json::object* examples = object_of(stats, "examples")) {
        text += fmt::format(
            "{}: {} by {}, {} by {}; {} compared; {} examples, {:.1f} MiB; quality that may be given up: {:.2f} "
            "answers\n",
            text_of(*examples, "name"), count_of(*examples, "small"), text_of(*examples, "small_model"),
            count_of(*examples, "large"), text_of(*examples, "large_model"), count_of(*examples, "comparisons"),
            count_of(*examples, "examples"), number_of(*examples, "bytes") / 1048576, number_of(*examples, "account"));
    }
    const json::object* similar = object_of(stats, "similar");
    if (similar == nullptr) { return text + "similar questions: off (caching.semantic.similarity)\n"; }
    text += fmt::format("similar questions: {} answers, {:.1f} MiB, {} partitions\n", count_of(*similar, "entries"),
                        number_of(*similar, "bytes") / 1048576, count_of(*similar, "partitions"));
    if (const json::array* categories = array_of(*similar, "categories")) {
        for (const json::value& item : *categories) {
            if (!item.is_object()) { continue; }
            const json::object& one = item.get_object();
            const auto is = [&one](const char* name) {
                const json::value* value = one.if_contains(name);
                return value != nullptr && value->is_bool() && value->get_bool();
            };
            text += fmt::format(
                "  {}: {} equal and {} similar hits; of {} compared {} wrong, at most {:.3f}; {:.1f} s saved, {:.1f} "
                "spent{}{}\n",
                text_of(one, "category"), count_of(one, "hits_exact"), count_of(one, "hits_similar"),
                count_of(one, "shadows"), count_of(one, "shadow_errors"), number_of(one, "wrong_at_most"),
                number_of(one, "earned_s"), number_of(one, "spent_s"), is("exact_only") ? "; equal questions only" : "",
                is("in_deficit") ? "; in deficit, so seldom searched" : "");
        }
    }
    return text;
}

std::string cache_entries_text(const json::object& entries) {
    std::string text = fmt::format("{:<10} {:<20} {:<20} {:<18} {:>8} {:>9} {:>7} {:>8}  {}\n", "ENTRY", "TENANT",
                                   "MODEL", "REVISION", "AGE s", "LEFT s", "TOKENS", "SAVES s", "TAGS");
    if (const json::array* list = array_of(entries, "entries")) {
        for (const json::value& item : *list) {
            if (!item.is_object()) { continue; }
            const json::object& one = item.get_object();
            text += fmt::format("{:<10} {:<20} {:<20} {:<18} {:>8} {:>9} {:>7} {:>8.2f}  {}\n", text_of(one, "entry"),
                                text_of(one, "tenant"), text_of(one, "model"), text_of(one, "revision"),
                                count_of(one, "age_s"), count_of(one, "expires_in_s"),
                                count_of(one, "completion_tokens"), number_of(one, "saves_s"), tags_of(one));
        }
    }
    return text + fmt::format("{} of {}\n", count_of(entries, "shown"), count_of(entries, "total"));
}

std::string cache_examples_text(const json::object& examples) {
    std::string text = fmt::format("{:<10} {:<20} {:<18} {:>8} {:>6} {:>8} {:>7} {:>7}  {}\n", "EXAMPLE", "TENANT",
                                   "REVISION", "AGE s", "USES", "VALUE", "GAIN", "BYTES", "TAGS");
    if (const json::array* list = array_of(examples, "examples")) {
        for (const json::value& item : *list) {
            if (!item.is_object()) { continue; }
            const json::object& one = item.get_object();
            text += fmt::format("{:<10} {:<20} {:<18} {:>8} {:>6} {:>8.2f} {:>7.3f} {:>7}  {}\n", text_of(one, "entry"),
                                text_of(one, "tenant"), text_of(one, "revision"), count_of(one, "age_s"),
                                count_of(one, "uses"), number_of(one, "value"), number_of(one, "gain"),
                                count_of(one, "bytes"), tags_of(one));
            if (one.contains("question")) {
                text += fmt::format("  asked: {}\n  answered: {}\n", text_of(one, "question"), text_of(one, "answer"));
            }
        }
    }
    return text + fmt::format("{} of {}\n", count_of(examples, "shown"), count_of(examples, "total"));
}

int cache_examples_main(const CacheCommand& command) {
    const auto examples = ask_list(command, "/cache/examples", command.text);
    if (!examples) { return report(examples.error()); }
    std::printf("%s",
                command.json ? (json::serialize(*examples) + "\n").c_str() : cache_examples_text(*examples).c_str());
    return 0;
}

int cache_stats_main(const CacheCommand& command) {
    const auto stats = ask_gateway(command.url, command.api_key, "/cache");
    if (!stats) { return report(stats.error()); }
    std::printf("%s", command.json ? (json::serialize(*stats) + "\n").c_str() : cache_stats_text(*stats).c_str());
    return 0;
}

int cache_ls_main(const CacheCommand& command) {
    const auto entries = ask_entries(command, false);
    if (!entries) { return report(entries.error()); }
    std::printf("%s", command.json ? (json::serialize(*entries) + "\n").c_str() : cache_entries_text(*entries).c_str());
    return 0;
}

int cache_export_main(const CacheCommand& command) {
    const auto entries = ask_entries(command, true);
    if (!entries) { return report(entries.error()); }
    if (const json::array* list = array_of(*entries, "entries")) {
        for (const json::value& one : *list) {
            std::printf("%s\n", json::serialize(one).c_str());
        }
    }
    if (count_of(*entries, "shown") < count_of(*entries, "total")) {
        std::fprintf(stderr, "%lld of %lld answers: --limit, --tenant, --tag and --revision choose which\n",
                     static_cast<long long>(count_of(*entries, "shown")),
                     static_cast<long long>(count_of(*entries, "total")));
    }
    return 0;
}

int cache_purge_main(const CacheCommand& command) {
    const auto body = purge_body(command);
    if (!body) { return report(body.error()); }
    const auto purged = ask_gateway(command.url, command.api_key, "/cache/purge", *body);
    if (!purged) { return report(purged.error()); }
    if (command.json) {
        std::printf("%s\n", json::serialize(*purged).c_str());
    } else {
        std::printf("%s%lld answers to equal requests and %lld to similar questions, %lld examples\n",
                    command.dry_run ? "would remove " : "removed ", static_cast<long long>(count_of(*purged, "equal")),
                    static_cast<long long>(count_of(*purged, "similar")),
                    static_cast<long long>(count_of(*purged, "examples")));
    }
    return 0;
}

}  // namespace cli
