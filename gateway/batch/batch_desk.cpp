#include "gateway/batch/batch_desk.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <memory>
#include <utility>

#include "gateway/batch/batch_form.h"
#include "gateway/batch/multipart.h"
#include "gateway/http/query.h"
#include "gateway/openai/errors.h"
#include "gateway/openai/json_writer.h"

namespace gateway {
namespace {

constexpr std::string_view kFiles = "/files";
constexpr std::string_view kBatches = "/batches";
constexpr std::string_view kContent = "/content";
constexpr std::string_view kCancel = "/cancel";
constexpr std::size_t kShownBytesMax = 100;
constexpr std::size_t kListDefault = 20;
constexpr std::size_t kListMax = 100;
constexpr std::size_t kFilesListMax = 10'000;
constexpr std::size_t kPieceBytes = 256 * 1024;  // of a file's content on its way to a client
constexpr std::array<std::string_view, 6> kPurposes = {"assistants", "batch",     "evals",
                                                       "fine-tune",  "user_data", "vision"};

HttpResponse json_response(std::string body) {
    HttpResponse response;
    response.body = std::move(body);
    return response;
}

HttpResponse store_error(const base::Error& error) {
    return error_response(api_error(error, 1000));
}

ApiError made(unsigned status, std::string code, std::string message) {
    ApiError error;
    error.status = status;
    error.code = std::move(code);
    error.message = std::move(message);
    return error;
}

HttpResponse not_there(std::string_view what, std::string_view id) {
    ApiError error =
        made(404, "not_found", "no " + std::string(what) + " '" + std::string(id.substr(0, kShownBytesMax)) + "'");
    error.param = "id";
    return error_response(error);
}

/// `limit` of a query.
ApiResult<std::size_t> limit_of(const std::map<std::string, std::string>& query, std::size_t fallback,
                                std::size_t most) {
    const auto at = query.find("limit");
    if (at == query.end()) { return fallback; }
    std::size_t limit = 0;
    const char* const end = at->second.data() + at->second.size();
    const auto [stopped, error] = std::from_chars(at->second.data(), end, limit);
    if (error != std::errc() || stopped != end || limit < 1 || limit > most) {
        return bad_request("limit", "limit must be a whole number from 1 to " + std::to_string(most));
    }
    return limit;
}

std::string value_of(const std::map<std::string, std::string>& query, const std::string& name) {
    const auto at = query.find(name);
    return at == query.end() ? std::string() : at->second;
}

/// OpenAI's page of a list. One more than `limit` was asked for, so that it is known whether there are more.
template <class T, class Write>
std::string list_json(std::vector<T> all, std::size_t limit, Write write) {
    const bool has_more = all.size() > limit;
    if (has_more) { all.resize(limit); }
    JsonWriter json;
    json.begin_object().key("object").string("list").key("data").begin_array();
    for (const T& one : all) {
        json.raw(write(one));
    }
    json.end_array();
    json.key("first_id");
    all.empty() ? json.null() : json.string(all.front().id);
    json.key("last_id");
    all.empty() ? json.null() : json.string(all.back().id);
    return json.key("has_more").boolean(has_more).end_object().take();
}

/// A file's content as a client takes it: a piece is read when the one before has left.
class FileContent final : public BodySource, public std::enable_shared_from_this<FileContent> {
public:
    FileContent(const BatchRunner::Setup& setup, std::string tenant, std::string id)
        : setup_(setup), tenant_(std::move(tenant)), id_(std::move(id)) {}

    void next(std::function<void(base::Result<std::string>)> done) override {
        // Moved on and on: whoever waits is let go where it lives, on the I/O thread.
        setup_.post_disk([self = shared_from_this(), done = std::move(done)]() mutable {
            auto piece = self->setup_.store.content_piece(self->tenant_, self->id_, self->place_, kPieceBytes);
            base::Result<std::string> given;
            if (!piece) {
                given = tl::unexpected(piece.error());
            } else if (!*piece) {
                given = base::fail(base::ErrorCode::not_found, "the file was deleted");
            } else {
                given = std::move(**piece);
            }
            const BatchRunner::Setup& setup = self->setup_;
            setup.post([self = std::move(self), done = std::move(done), given = std::move(given)]() mutable {
                done(std::move(given));
            });
        });
    }

private:
    const BatchRunner::Setup& setup_;  // of the desk, which outlives requests
    const std::string tenant_;
    const std::string id_;
    BatchStore::ContentPlace place_;  // the store's thread, of one call at a time
};

}  // namespace

BatchDesk::BatchDesk(Setup setup) : setup_(setup.runner), runner_(std::move(setup.runner)) {
    for (BatchRecord& batch : setup.unfinished) {
        runner_.add(std::move(batch));
    }
}

bool BatchDesk::is_route(std::string_view route) {
    for (const std::string_view start : {kFiles, kBatches}) {
        if (route.starts_with(start) && (route.size() == start.size() || route[start.size()] == '/')) { return true; }
    }
    return false;
}

std::vector<std::string> BatchDesk::methods_of(std::string_view route) {
    if (route == kFiles || route == kBatches) { return {"GET", "HEAD", "POST", "OPTIONS"}; }
    if (route.starts_with(kBatches)) {
        return route.ends_with(kCancel) ? std::vector<std::string>{"POST", "OPTIONS"}
                                        : std::vector<std::string>{"GET", "HEAD", "OPTIONS"};
    }
    return route.ends_with(kContent) ? std::vector<std::string>{"GET", "HEAD", "OPTIONS"}
                                     : std::vector<std::string>{"GET", "HEAD", "DELETE", "OPTIONS"};
}

void BatchDesk::answer(HttpRequest request, std::string_view route, const RequestTag& tag, const std::string& tenant,
                       Done done) {
    const std::string method = request.head.method;
    if (route == kFiles) {
        method == "POST" ? upload(std::move(request), tenant, std::move(done))
                         : list_files(request, tenant, std::move(done));
    } else if (route == kBatches) {
        method == "POST" ? create(request, tag, tenant, std::move(done))
                         : list_batches(request, tenant, std::move(done));
    } else if (route.starts_with(kFiles)) {
        file(method, route.substr(kFiles.size() + 1), tenant, std::move(done));
    } else {
        batch(route.substr(kBatches.size() + 1), tenant, std::move(done));
    }
}

void BatchDesk::on_disk(std::function<HttpResponse()> work, Done done) {
    setup_.post_disk([post = setup_.post, work = std::move(work), done = std::move(done)] {
        post([done, response = work()]() mutable { done(std::move(response)); });
    });
}

void BatchDesk::upload(HttpRequest request, const std::string& tenant, Done done) {
    const std::string* const type = request.head.only_field("content-type");
    const auto parts = read_form(type == nullptr ? std::string_view() : std::string_view(*type), request.body);
    if (!parts) { return done(error_response(parts.error())); }
    const auto part = [&](std::string_view name) -> const FormPart* {
        const auto at =
            std::find_if(parts->begin(), parts->end(), [&](const FormPart& one) { return one.name == name; });
        return at == parts->end() ? nullptr : &*at;
    };
    const FormPart* const purpose = part("purpose");
    const FormPart* const content = part("file");
    if (content == nullptr) { return done(error_response(bad_request("file", "the part 'file' is missing").value())); }
    if (purpose == nullptr || std::find(kPurposes.begin(), kPurposes.end(), purpose->bytes) == kPurposes.end()) {
        std::string known;
        for (const std::string_view one : kPurposes) {
            known += (known.empty() ? "" : ", ") + std::string(one);
        }
        return done(error_response(
            bad_request("purpose", "purpose must be one of " + known + " (batches read 'batch')").value()));
    }
    FileRecord record{.id = setup_.random_id("file-"),
                      .tenant = tenant,
                      .name = content->filename.empty() ? "upload" : content->filename,
                      .purpose = std::string(purpose->bytes),
                      .created_at = setup_.clock.unix_us() / 1'000'000,
                      .bytes = content->bytes.size()};
    const auto begin = static_cast<std::size_t>(content->bytes.data() - request.body.data());
    const std::size_t bytes = content->bytes.size();
    // The body, and whoever counts it, stay until it is written.
    on_disk(
        [this, record = std::move(record), begin, bytes, held = std::make_shared<HttpRequest>(std::move(request))] {
            const auto added = setup_.store.add_file(record, std::string_view(held->body).substr(begin, bytes));
            return added ? json_response(file_json(record)) : store_error(added.error());
        },
        std::move(done));
}

void BatchDesk::list_files(const HttpRequest& request, const std::string& tenant, Done done) {
    const auto query = query_pairs(request.head.query);
    const auto limit = limit_of(query, kFilesListMax, kFilesListMax);
    if (!limit) { return done(error_response(limit.error())); }
    on_disk(
        [this, tenant, limit = *limit, purpose = value_of(query, "purpose"), after = value_of(query, "after")] {
            auto found = setup_.store.files(tenant, purpose, after, limit + 1);
            return found ? json_response(list_json(std::move(*found), limit, file_json)) : store_error(found.error());
        },
        std::move(done));
}

void BatchDesk::file(std::string_view method, std::string_view rest, const std::string& tenant, Done done) {
    const bool is_content = rest.ends_with(kContent);
    const std::string id(is_content ? rest.substr(0, rest.size() - kContent.size()) : rest);
    if (is_content) {
        on_disk(
            [this, id, tenant] {
                const auto found = setup_.store.file(tenant, id);
                if (!found) { return store_error(found.error()); }
                if (!*found) { return not_there("file", id); }
                HttpResponse response;
                // What a client uploaded is never shown as a page.
                response.content_type = "application/octet-stream";
                response.fields = {{"X-Content-Type-Options", "nosniff"}, {"Content-Disposition", "attachment"}};
                response.source = std::make_shared<FileContent>(setup_, tenant, id);
                response.source_bytes = (*found)->bytes;
                return response;
            },
            std::move(done));
    } else if (method == "DELETE") {
        on_disk(
            [this, id, tenant] {
                const auto removed = setup_.store.remove_file(tenant, id);
                if (!removed && removed.error().code == base::ErrorCode::failed_precondition) {
                    return error_response(bad_request("id", removed.error().message).value());
                }
                if (!removed) { return store_error(removed.error()); }
                if (!*removed) { return not_there("file", id); }
                JsonWriter json;
                json.begin_object().key("id").string(id).key("object").string("file").key("deleted").boolean(true);
                return json_response(json.end_object().take());
            },
            std::move(done));
    } else {
        on_disk(
            [this, id, tenant] {
                const auto found = setup_.store.file(tenant, id);
                if (!found) { return store_error(found.error()); }
                return *found ? json_response(file_json(**found)) : not_there("file", id);
            },
            std::move(done));
    }
}

void BatchDesk::create(const HttpRequest& request, const RequestTag& tag, const std::string& tenant, Done done) {
    auto form = read_batch_form(request.body);
    if (!form) { return done(error_response(form.error())); }
    const std::string_view scope = form_of(*batch_endpoint(form->endpoint)).name;
    if (tag.key && !tag.key->allows(scope)) {
        return done(error_response(
            made(403, "permission_denied",
                 "this API key is not for " + form->endpoint + ": it lacks the scope '" + std::string(scope) + "'")));
    }
    const std::int64_t now = setup_.clock.unix_us() / 1'000'000;
    BatchRecord record{.id = setup_.random_id("batch_"),
                       .tenant = tenant,
                       .key_id = tag.key ? tag.key->id : std::string(),
                       .endpoint = form->endpoint,
                       .input_file = form->input_file,
                       .window = form->window,
                       .metadata = form->metadata,
                       .created_at = now,
                       .expires_at = now + form->window_s};
    setup_.post_disk([this, record = std::move(record), done = std::move(done)] {
        const auto file = setup_.store.file(record.tenant, record.input_file);
        HttpResponse response;
        if (!file) {
            response = store_error(file.error());
        } else if (!*file) {
            response = not_there("file", record.input_file);
        } else if ((*file)->purpose != "batch") {
            response = error_response(bad_request("input_file_id", "the file's purpose must be 'batch'").value());
        } else if (const auto added = setup_.store.add_batch(record); !added) {
            response = store_error(added.error());
        } else {
            response = json_response(batch_json(record));
        }
        setup_.post([this, record, done, response = std::move(response)]() mutable {
            if (response.status == 200) { runner_.add(record); }
            done(std::move(response));
        });
    });
}

void BatchDesk::list_batches(const HttpRequest& request, const std::string& tenant, Done done) {
    const auto query = query_pairs(request.head.query);
    const auto limit = limit_of(query, kListDefault, kListMax);
    if (!limit) { return done(error_response(limit.error())); }
    setup_.post_disk([this, tenant, limit = *limit, after = value_of(query, "after"), done = std::move(done)] {
        auto found = setup_.store.batches(tenant, after, limit + 1);
        setup_.post([this, limit, done, found = std::move(found)]() mutable {
            if (!found) { return done(store_error(found.error())); }
            for (BatchRecord& one : *found) {
                one = runner_.find(one.id).value_or(one);  // its counts are of now
            }
            done(json_response(list_json(std::move(*found), limit, batch_json)));
        });
    });
}

void BatchDesk::batch(std::string_view rest, const std::string& tenant, Done done) {
    const bool cancels = rest.ends_with(kCancel);
    const std::string id(cancels ? rest.substr(0, rest.size() - kCancel.size()) : rest);
    if (const auto live = runner_.find(id); live && live->tenant == tenant) {
        if (cancels) { runner_.cancel(id); }
        return done(json_response(batch_json(runner_.find(id).value_or(*live))));
    }
    on_disk(
        [this, id, tenant, cancels] {
            const auto found = setup_.store.batch(tenant, id);
            if (!found) { return store_error(found.error()); }
            if (!*found) { return not_there("batch", id); }
            if (cancels) {
                ApiError error =
                    made(409, "batch_is_over",
                         "the batch is " + std::string(name_of((*found)->status)) + ": there is nothing to cancel");
                error.repeat_is_useless = true;
                return error_response(error);
            }
            return json_response(batch_json(**found));
        },
        std::move(done));
}

}  // namespace gateway
