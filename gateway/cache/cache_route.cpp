#include "gateway/cache/cache_route.h"

#include <boost/json.hpp>
#include <charconv>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "base/log.h"
#include "gateway/explain/explain_route.h"
#include "gateway/http/query.h"
#include "gateway/openai/errors.h"
#include "gateway/openai/fields.h"
#include "gateway/openai/json_writer.h"

namespace gateway {
namespace {

constexpr std::size_t kEntriesDefault = 100;
constexpr std::size_t kEntriesMax = 10'000;
constexpr std::size_t kEntriesBytesMax = std::size_t{64} << 20;  // of texts in one answer
constexpr std::size_t kShownBytesMax = 100;
constexpr std::string_view kEntriesPath = "/cache/entries";
constexpr std::string_view kExamplesPath = "/cache/examples";

HttpResponse json_response(std::string body) {
    HttpResponse response;
    response.body = std::move(body);
    return response;
}

ApiError made(unsigned status, std::string code, std::string message) {
    ApiError error;
    error.status = status;
    error.code = std::move(code);
    error.message = std::move(message);
    return error;
}

std::optional<std::uint64_t> number_of(std::string_view text) {
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error != std::errc() || end != text.data() + text.size()) { return std::nullopt; }
    return number;
}

void write_entry(JsonWriter& json, const caching::SavedAnswer& one, std::int64_t now_unix_us, bool with_text) {
    json.begin_object().key("entry").string("e-" + std::to_string(one.id));
    json.key("tenant").string(one.tenant).key("model").string(one.model).key("revision").string(one.revision);
    json.key("tags").begin_array();
    for (const std::string& tag : one.tags) {
        json.string(tag);
    }
    json.end_array();
    json.key("age_s").integer((now_unix_us - one.created_unix_us) / 1'000'000);
    json.key("expires_in_s").integer((one.expires_unix_us - now_unix_us) / 1'000'000);
    json.key("prompt_tokens").integer(one.answer.prompt_tokens);
    json.key("completion_tokens").integer(one.answer.completion_tokens);
    json.key("saves_s").number(static_cast<float>(one.saved_s));
    json.key("bytes").integer(static_cast<std::int64_t>(one.bytes()));
    if (with_text) {
        json.key("finish_reason").string(one.answer.is_cut ? "length" : "stop");
        json.key("text").string(one.answer.text);
    }
    json.end_object();
}

/// What a query asks to list.
struct ListQuery {
    std::optional<std::string> tenant;
    std::optional<std::string> tag;
    std::optional<std::string> revision;
    std::size_t limit = kEntriesDefault;
    bool with_text = false;
};
ApiResult<ListQuery> read_list_query(std::string_view query) {
    ListQuery list;
    for (auto& [name, value] : query_pairs(query)) {
        if (name == "tenant") {
            list.tenant = value;
        } else if (name == "tag") {
            list.tag = value;
        } else if (name == "revision") {
            list.revision = value;
        } else if (name == "text") {
            list.with_text = value == "true";
        } else if (name == "limit") {
            const auto number = number_of(value);
            if (!number || *number < 1 || *number > kEntriesMax) {
                return bad_request("limit", "limit must be a whole number from 1 to " + std::to_string(kEntriesMax));
            }
            list.limit = static_cast<std::size_t>(*number);
        } else {
            return bad_request(
                name, "'" + name.substr(0, kShownBytesMax) + "' is none of tenant, tag, revision, limit, text");
        }
    }
    return list;
}

std::string entries_json(const ResponseCache& cache, const ListQuery& list) {
    caching::AnswerFilter filter;
    filter.tenant = list.tenant;
    filter.tag = list.tag;
    filter.revision = list.revision;
    JsonWriter json;
    std::size_t total = 0;
    std::size_t shown = 0;
    json.begin_object().key("entries").begin_array();
    cache.book().for_each([&](const caching::SavedAnswer& one) {
        if (!filter.matches(one)) { return true; }
        ++total;
        if (shown < list.limit && json.text().size() < kEntriesBytesMax) {
            ++shown;
            write_entry(json, one, cache.unix_us(), list.with_text);
        }
        return true;
    });
    json.end_array().key("shown").integer(static_cast<std::int64_t>(shown));
    return json.key("total").integer(static_cast<std::int64_t>(total)).end_object().take();
}

std::string examples_json(const LiveExamples::Listed& listed, bool with_text) {
    JsonWriter json;
    json.begin_object().key("examples").begin_array();
    std::size_t shown = 0;
    for (const LiveExamples::View& one : listed.shown) {
        if (json.text().size() >= kEntriesBytesMax) { break; }
        ++shown;
        json.begin_object().key("entry").string("x-" + std::to_string(one.id));
        json.key("tenant").string(one.tenant).key("revision").string(one.revision);
        json.key("tags").begin_array();
        for (const std::string& tag : one.tags) {
            json.string(tag);
        }
        json.end_array();
        json.key("age_s").integer(one.age_s);
        json.key("uses").integer(static_cast<std::int64_t>(one.uses));
        json.key("value").number(static_cast<float>(one.value));
        json.key("gain").number(static_cast<float>(one.gain));
        json.key("replays").integer(static_cast<std::int64_t>(one.replays));
        json.key("bytes").integer(static_cast<std::int64_t>(one.bytes));
        if (with_text) { json.key("question").string(one.question).key("answer").string(one.answer); }
        json.end_object();
    }
    json.end_array().key("shown").integer(static_cast<std::int64_t>(shown));
    return json.key("total").integer(static_cast<std::int64_t>(listed.total)).end_object().take();
}

void answer_examples(ResponseCache& cache, const ListQuery& list, std::function<void(HttpResponse)> done) {
    if (cache.examples() == nullptr) {
        done(error_response(
            made(404, "not_found", "there are no examples: the setting caching.in_context.enabled is false")));
        return;
    }
    caching::ExampleFilter filter;
    filter.tenant = list.tenant;
    filter.tag = list.tag;
    filter.revision = list.revision;
    const bool is_asked = cache.examples()->list(
        filter, list.limit, [done, with_text = list.with_text](const LiveExamples::Listed& listed) {
            done(json_response(examples_json(listed, with_text)));
        });
    if (!is_asked) {
        done(error_response(api_error(
            {base::ErrorCode::resource_exhausted, "too many answers wait to become examples; ask again"}, 1000)));
    }
}

void write_examples(JsonWriter& json, const ResponseCache& cache,
                    const std::optional<caching::InContextCache::Counts>& counts) {
    json.key("examples");
    if (!counts) {
        json.null();
        return;
    }
    const auto integer = [&](const char* name, std::uint64_t value) {
        json.key(name).integer(static_cast<std::int64_t>(value));
    };
    json.begin_object().key("name").string(cache.options().in_context.name);
    json.key("small_model").string(cache.options().in_context.small);
    json.key("large_model").string(cache.options().in_context.large);
    integer("examples", counts->book.examples);
    integer("bytes", counts->book.bytes);
    integer("clusters", counts->book.clusters);
    integer("evicted", counts->book.evicted);
    integer("small", counts->small);
    integer("large", counts->large);
    integer("comparisons", counts->comparisons);
    integer("with_pack", counts->with_pack);
    integer("model_changes", counts->model_changes);
    json.key("account").number(static_cast<float>(counts->account));
    json.key("load").number(static_cast<float>(counts->load)).end_object();
}

void write_served(JsonWriter& json, const TenantSums& tenants) {
    const auto write = [&json](const TenantSums::Sums& sums) {
        json.begin_object().key("requests").integer(static_cast<std::int64_t>(sums.requests));
        json.key("hits").integer(static_cast<std::int64_t>(sums.hits));
        json.key("saved_s").number(static_cast<float>(sums.saved_s)).end_object();
    };
    json.key("served").begin_object().key("tenants").begin_object();
    for (const auto& [name, sums] : tenants.named()) {
        json.any_key(name);
        write(sums);
    }
    json.end_object().key("others");
    write(tenants.others());
    json.end_object();
}

std::string standing_json(const ResponseCache& cache, const ResponseCache::Standing& standing) {
    const std::optional<SimilarAnswers::Standing>& similar = standing.similar;
    struct OfTenant {
        std::int64_t entries = 0;
        std::int64_t bytes = 0;
    };
    std::map<std::string, OfTenant> tenants;
    cache.book().for_each([&](const caching::SavedAnswer& one) {
        OfTenant& tenant = tenants[one.tenant];
        ++tenant.entries;
        tenant.bytes += static_cast<std::int64_t>(one.bytes());
        return true;
    });
    const auto counts = cache.book().counts();
    JsonWriter json;
    json.begin_object().key("equal").begin_object();
    json.key("entries").integer(static_cast<std::int64_t>(counts.entries));
    json.key("bytes").integer(static_cast<std::int64_t>(counts.bytes));
    json.key("bytes_max").integer(static_cast<std::int64_t>(cache.options().book.bytes_max));
    json.key("evicted").integer(static_cast<std::int64_t>(counts.evicted));
    json.key("runs").integer(static_cast<std::int64_t>(cache.runs().runs()));
    json.key("waiters").integer(static_cast<std::int64_t>(cache.runs().waiters()));
    json.key("tenants").begin_object();
    for (const auto& [name, tenant] : tenants) {
        json.any_key(name).begin_object().key("entries").integer(tenant.entries).key("bytes").integer(tenant.bytes);
        json.end_object();
    }
    json.end_object().end_object();
    write_served(json, cache.runs().tenants());
    json.key("common");
    if (const caching::CommonAnswers* common = cache.common()) {
        const caching::CommonAnswers::Counts told = common->counts();
        json.begin_object().key("answers").integer(static_cast<std::int64_t>(told.common));
        json.key("waiting").integer(static_cast<std::int64_t>(told.waiting));
        json.key("bytes").integer(static_cast<std::int64_t>(told.bytes));
        json.key("tenants_least").integer(static_cast<std::int64_t>(cache.options().common.answers.tenants_least));
        json.key("blur").boolean(cache.options().common.blurs).end_object();
    } else {
        json.null();
    }
    json.key("store");
    if (const caching::WriteBehind* store = cache.store()) {
        json.begin_object().key("file").string(cache.options().store_file);
        json.key("written").integer(static_cast<std::int64_t>(store->written()));
        json.key("lost").integer(static_cast<std::int64_t>(store->lost()));
        json.key("up").boolean(store->is_well()).end_object();
    } else {
        json.null();
    }
    json.key("shared");
    if (const caching::SharedAnswers* shared = cache.shared()) {
        const auto told = shared->counts();
        json.begin_object().key("server").string(shared->address().text());
        json.key("up").boolean(shared->is_up()).key("current").boolean(shared->is_current());
        json.key("written").integer(static_cast<std::int64_t>(told.written));
        json.key("lost").integer(static_cast<std::int64_t>(told.lost));
        json.key("refused").integer(static_cast<std::int64_t>(told.refused)).end_object();
    } else {
        json.null();
    }
    write_examples(json, cache, standing.examples);
    json.key("similar");
    if (!similar) { return json.null().end_object().take(); }
    json.begin_object().key("entries").integer(static_cast<std::int64_t>(similar->counts.entries));
    json.key("bytes").integer(static_cast<std::int64_t>(similar->counts.bytes));
    json.key("partitions").integer(static_cast<std::int64_t>(similar->counts.partitions));
    json.key("categories").begin_array();
    for (const CategoryStanding& one : similar->categories) {
        json.begin_object().key("category").string(one.name);
        json.key("hits_exact").integer(static_cast<std::int64_t>(one.hits_exact));
        json.key("hits_similar").integer(static_cast<std::int64_t>(one.hits_similar));
        json.key("shadows").integer(static_cast<std::int64_t>(one.shadows));
        json.key("shadow_errors").integer(static_cast<std::int64_t>(one.shadow_errors));
        json.key("wrong_at_most").number(static_cast<float>(one.wrong_at_most));
        json.key("exact_only").boolean(one.is_exact_only);
        json.key("earned_s").number(static_cast<float>(one.earned_s));
        json.key("spent_s").number(static_cast<float>(one.spent_s));
        json.key("in_deficit").boolean(one.is_in_deficit).end_object();
    }
    return json.end_array().end_object().end_object().take();
}

/// What a body asks to purge; all that is given must hold.
ApiResult<ResponseCache::Purge> read_purge(std::string_view body, std::int64_t now_unix_us) {
    const auto parsed = parse_body(body);
    if (!parsed) { return pass_on(parsed.error()); }
    Fields fields(*parsed);
    for (const auto& pair : *parsed) {
        const std::string_view name(pair.key().data(), pair.key().size());
        static constexpr auto kNames =
            std::to_array<std::string_view>({"entry", "tenant", "tag", "revision", "older_than_s", "near_text",
                                             "near_similarity", "all", "dry_run", "wrong"});
        if (std::find(kNames.begin(), kNames.end(), name) == kNames.end()) {
            return bad_request(name, "'" + std::string(name.substr(0, kShownBytesMax)) +
                                         "' is none of entry, tenant, tag, revision, older_than_s, near_text, "
                                         "near_similarity, all, dry_run, wrong");
        }
    }
    ResponseCache::Purge purge;
    const auto entry = fields.string("entry", 64);
    const auto tenant = fields.string("tenant", 256);
    const auto tag = fields.string("tag", 256);
    const auto revision = fields.string("revision", 256);
    const auto older_than_s = fields.integer("older_than_s", 0, std::int64_t{1} << 31);
    const auto near_text = fields.string("near_text", 1 << 16);
    const auto near_similarity = fields.number("near_similarity", {.low = 0, .high = 1});
    const bool all = fields.boolean("all").value_or(false);
    purge.dry_run = fields.boolean("dry_run").value_or(false);
    purge.is_wrong = fields.boolean("wrong").value_or(false);
    if (fields.error()) { return pass_on(*fields.error()); }
    if (!entry && !tenant && !tag && !revision && !older_than_s && !near_text && !all) {
        return bad_request("",
                           "say which answers: entry, tenant, tag, revision, older_than_s, near_text, or all: true");
    }
    purge.filter.tenant = purge.similar_filter.tenant = purge.example_filter.tenant = tenant;
    purge.filter.tag = purge.similar_filter.tag = purge.example_filter.tag = tag;
    purge.filter.revision = purge.similar_filter.model_revision = purge.example_filter.revision = revision;
    if (older_than_s) {
        purge.filter.created_before_unix_us = now_unix_us - *older_than_s * 1'000'000;
        purge.similar_filter.older_than = purge.example_filter.older_than = std::chrono::seconds(*older_than_s);
    }
    if (entry) {
        const auto number = entry->size() > 2 ? number_of(std::string_view(*entry).substr(2)) : std::nullopt;
        const char kind = entry->front();
        if (!number || (kind != 'e' && kind != 's' && kind != 'x') || (*entry)[1] != '-') {
            return bad_request("entry",
                               "'entry' is what x-cache-entry said, like e-12 or s-3, or an example's name, like x-7");
        }
        purge.equal = kind == 'e';
        purge.similar = kind == 's';
        purge.examples = kind == 'x';
        purge.example_filter.id = caching::ExampleId{*number};
        purge.filter.id = *number;
        purge.similar_filter.entry = caching::EntryId{*number};
    }
    if (near_text) {
        purge.equal = purge.examples = false;  // their questions are not kept, or not searched by
        purge.similar_filter.near_text = near_text;
        purge.similar_filter.near_similarity = near_similarity.value_or(0.9);
    }
    return purge;
}

bool is_json(const HttpRequest& request) {
    const std::string* type = request.head.only_field("content-type");
    return type != nullptr && type->starts_with("application/json");
}

}  // namespace

bool is_cache_route(std::string_view route) {
    return route == kCachePath || route == kEntriesPath || route == kExamplesPath || route == kCachePurgePath;
}

void answer_cache(const HttpRequest& request, std::string_view route, const RequestTag& tag, ResponseCache* cache,
                  std::function<void(HttpResponse)> done) {
    if (cache == nullptr) {
        done(error_response(made(404, "not_found", "there is no cache: the setting caching.enabled is false")));
        return;
    }
    if (!cache->options().from_anywhere && !is_from_here(request)) {
        done(error_response(made(403, "permission_denied",
                                 "the cache is told of on this machine only (loopback, without a proxy), or where the "
                                 "setting caching.from_anywhere is true")));
        return;
    }
    if (route == kEntriesPath || route == kExamplesPath) {
        const auto list = read_list_query(request.head.query);
        if (!list) {
            done(error_response(list.error()));
        } else if (route == kEntriesPath) {
            done(json_response(entries_json(*cache, *list)));
        } else {
            answer_examples(*cache, *list, std::move(done));
        }
        return;
    }
    if (route == kCachePath) {
        cache->stand([cache, done](const base::Result<ResponseCache::Standing>& standing) {
            done(standing ? json_response(standing_json(*cache, *standing))
                          : error_response(api_error(standing.error(), 1000)));
        });
        return;
    }
    if (!is_json(request)) {
        done(error_response(
            made(415, "unsupported_content_type", "the body must be JSON (Content-Type: application/json)")));
        return;
    }
    const auto purge = read_purge(request.body, cache->unix_us());
    if (!purge) {
        done(error_response(purge.error()));
        return;
    }
    const std::string who = tag.key ? "key " + tag.key->id : "client " + request.client;
    const std::string what = request.body.substr(0, 1000);
    cache->purge(*purge, [done, who, what, id = tag.id,
                          dry_run = purge->dry_run](const base::Result<ResponseCache::Purged>& purged) {
        if (!purged) {
            done(error_response(api_error(purged.error(), 1000)));
            return;
        }
        JsonWriter asked;
        asked.string(what);  // one line, whatever it holds
        spdlog::info("audit: cache purge{} by {}: {} equal and {} similar answers, {} examples, request {}: {}",
                     dry_run ? " (dry run)" : "", who, purged->equal, purged->similar, purged->examples, id,
                     asked.text());
        JsonWriter json;
        json.begin_object().key("dry_run").boolean(dry_run);
        json.key("equal").integer(static_cast<std::int64_t>(purged->equal));
        json.key("similar").integer(static_cast<std::int64_t>(purged->similar));
        json.key("examples").integer(static_cast<std::int64_t>(purged->examples));
        done(json_response(json.end_object().take()));
    });
}

}  // namespace gateway
