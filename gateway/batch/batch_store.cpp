#include "gateway/batch/batch_store.h"

#include <sqlite3.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <utility>

#include "caching/store/sqlite_statement.h"
#include "gateway/batch/batch_form.h"
#include "gateway/openai/fields.h"
#include "gateway/openai/json_writer.h"

namespace gateway {
namespace {

using base::ErrorCode;
using Statement = caching::SqliteStatement;

constexpr int kForm = 1;  // of the tables; another one is not read
constexpr char kTables[] =
    "CREATE TABLE IF NOT EXISTS files (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, name TEXT NOT NULL,"
    " purpose TEXT NOT NULL, created_at INTEGER NOT NULL, bytes INTEGER NOT NULL, of_batch TEXT NOT NULL,"
    " is_error INTEGER NOT NULL, content BLOB);"
    "CREATE INDEX IF NOT EXISTS files_of_tenant ON files (tenant, created_at, id);"
    "CREATE TABLE IF NOT EXISTS batches (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, key_id TEXT NOT NULL,"
    " endpoint TEXT NOT NULL, input_file TEXT NOT NULL, window TEXT NOT NULL, metadata TEXT NOT NULL,"
    " status TEXT NOT NULL, is_over INTEGER NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL,"
    " in_progress_at INTEGER NOT NULL, finalizing_at INTEGER NOT NULL, ended_at INTEGER NOT NULL,"
    " cancelling_at INTEGER NOT NULL, total INTEGER NOT NULL, completed INTEGER NOT NULL, failed INTEGER NOT NULL,"
    " output_file TEXT NOT NULL, error_file TEXT NOT NULL, problems TEXT NOT NULL);"
    "CREATE INDEX IF NOT EXISTS batches_of_tenant ON batches (tenant, created_at, id);"
    "CREATE TABLE IF NOT EXISTS requests (batch TEXT NOT NULL, number INTEGER NOT NULL, custom_id TEXT NOT NULL,"
    " begin INTEGER NOT NULL, bytes INTEGER NOT NULL, state INTEGER NOT NULL, outcome BLOB,"
    " PRIMARY KEY (batch, number)) WITHOUT ROWID;";
constexpr char kColumns[] =
    "id, tenant, key_id, endpoint, input_file, window, metadata, status, is_over, created_at, expires_at, "
    "in_progress_at,"
    " finalizing_at, ended_at, cancelling_at, total, completed, failed, output_file, error_file, problems";

// requests.state
// 0: it waits
constexpr int kAnswered = 1;
constexpr int kFailed = 2;

std::string problems_json(const std::vector<BatchProblem>& problems) {
    JsonWriter json;
    json.begin_array();
    for (const BatchProblem& one : problems) {
        json.begin_object().key("code").string(one.code).key("message").string(one.message);
        json.key("param").string(one.param).key("line").integer(one.line).end_object();
    }
    return json.end_array().take();
}

std::vector<BatchProblem> read_problems(const std::string& text) {
    std::vector<BatchProblem> problems;
    const auto parsed = parse_body("{\"all\":" + (text.empty() ? "[]" : text) + "}");
    if (!parsed) { return problems; }
    for (const auto& value : parsed->at("all").as_array()) {
        if (!value.is_object()) { continue; }
        Fields fields(value.get_object());
        constexpr std::size_t kBytesMax = 1 << 20;
        problems.push_back({.code = fields.string("code", kBytesMax).value_or(""),
                            .message = fields.string("message", kBytesMax).value_or(""),
                            .param = fields.string("param", kBytesMax).value_or(""),
                            .line = fields.integer("line", 0, INT64_MAX).value_or(0)});
    }
    return problems;
}

FileRecord file_of(Statement& row) {
    return {.id = row.bytes_of(0),
            .tenant = row.bytes_of(1),
            .name = row.bytes_of(2),
            .purpose = row.bytes_of(3),
            .created_at = row.integer_of(4),
            .bytes = static_cast<std::uint64_t>(row.integer_of(5))};
}
constexpr char kFileColumns[] = "id, tenant, name, purpose, created_at, bytes";

BatchRecord batch_of(Statement& row) {
    BatchRecord batch;
    batch.id = row.bytes_of(0);
    batch.tenant = row.bytes_of(1);
    batch.key_id = row.bytes_of(2);
    batch.endpoint = row.bytes_of(3);
    batch.input_file = row.bytes_of(4);
    batch.window = row.bytes_of(5);
    batch.metadata = row.bytes_of(6);
    batch.status = batch_status(row.bytes_of(7)).value_or(BatchStatus::failed);
    batch.created_at = row.integer_of(9);
    batch.expires_at = row.integer_of(10);
    batch.in_progress_at = row.integer_of(11);
    batch.finalizing_at = row.integer_of(12);
    batch.ended_at = row.integer_of(13);
    batch.cancelling_at = row.integer_of(14);
    batch.total = static_cast<std::uint64_t>(row.integer_of(15));
    batch.completed = static_cast<std::uint64_t>(row.integer_of(16));
    batch.failed = static_cast<std::uint64_t>(row.integer_of(17));
    batch.output_file = row.bytes_of(18);
    batch.error_file = row.bytes_of(19);
    batch.problems = read_problems(row.bytes_of(20));
    return batch;
}

}  // namespace

base::Result<std::unique_ptr<BatchStore>> BatchStore::open(const std::string& path, Bounds bounds) {
    auto file = caching::SqliteFile::open("batch.file", path, kForm, kTables);
    if (!file) { return base::pass_on(file); }
    return std::unique_ptr<BatchStore>(new BatchStore(std::move(*file), bounds));
}

/// The first column of the first row.
base::Result<std::int64_t> BatchStore::number(const char* sql, const std::string& text) {
    Statement statement(file_->database(), sql);
    if (!statement.is_ready()) { return tl::unexpected(file_->failed(sql)); }
    if (!text.empty()) { statement.text(1, text); }
    if (statement.step() != SQLITE_ROW) { return tl::unexpected(file_->failed(sql)); }
    return statement.integer_of(0);
}

template <class Work>
base::Result<void> BatchStore::in_transaction(Work work) {
    if (auto begun = file_->run("BEGIN IMMEDIATE"); !begun) { return begun; }
    base::Result<void> done = work();
    if (done) { done = file_->run("COMMIT"); }
    if (!done) { sqlite3_exec(file_->database(), "ROLLBACK", nullptr, nullptr, nullptr); }
    return done;
}

base::Result<void> BatchStore::insert_file(const FileRecord& file, std::string_view content,
                                           const std::string& of_batch, bool is_error) {
    Statement put(file_->database(), "INSERT INTO files VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9)");
    if (!put.is_ready()) { return tl::unexpected(file_->failed("files")); }
    put.text(1, file.id);
    put.text(2, file.tenant);
    put.text(3, file.name);
    put.text(4, file.purpose);
    put.integer(5, file.created_at);
    put.integer(6, static_cast<std::int64_t>(file.bytes));
    put.text(7, of_batch);
    put.integer(8, is_error ? 1 : 0);
    of_batch.empty() ? put.blob(9, content) : put.null(9);
    if (!put.run()) { return tl::unexpected(file_->failed("files")); }
    return {};
}

base::Result<void> BatchStore::add_file(const FileRecord& file, std::string_view content) {
    const auto files = number("SELECT COUNT(*) FROM files");
    const auto pages = number("PRAGMA page_count");
    const auto free = number("PRAGMA freelist_count");
    const auto page = number("PRAGMA page_size");
    for (const auto* one : {&files, &pages, &free, &page}) {
        if (!*one) { return base::pass_on(*one); }
    }
    if (static_cast<std::size_t>(*files) >= bounds_.files_max) {
        return base::fail(ErrorCode::resource_exhausted, "there are " + std::to_string(*files) +
                                                             " files, the most that are kept (batch.files_max): "
                                                             "delete some");
    }
    if (static_cast<std::uint64_t>((*pages - *free) * *page) + content.size() > bounds_.bytes_max) {
        return base::fail(ErrorCode::resource_exhausted,
                          "files and answers would take more than is kept of them (batch.bytes_max): delete some");
    }
    return in_transaction([&] { return insert_file(file, content, "", false); });
}

base::Result<std::optional<FileRecord>> BatchStore::file(const std::string& tenant, const std::string& id) {
    Statement get(file_->database(),
                  (std::string("SELECT ") + kFileColumns + " FROM files WHERE id=?1 AND tenant=?2").c_str());
    if (!get.is_ready()) { return tl::unexpected(file_->failed("files")); }
    get.text(1, id);
    get.text(2, tenant);
    const int code = get.step();
    if (code == SQLITE_DONE) { return std::nullopt; }
    if (code != SQLITE_ROW) { return tl::unexpected(file_->failed("files")); }
    return file_of(get);
}

base::Result<std::vector<FileRecord>> BatchStore::files(const std::string& tenant, const std::string& purpose,
                                                        const std::string& after, std::size_t limit) {
    Statement all(file_->database(),
                  (std::string("SELECT ") + kFileColumns +
                   " FROM files WHERE tenant=?1 AND (?2='' OR purpose=?2) AND (?3='' OR (created_at, id) <"
                   " (SELECT created_at, id FROM files WHERE id=?3 AND tenant=?1))"
                   " ORDER BY created_at DESC, id DESC LIMIT ?4")
                      .c_str());
    if (!all.is_ready()) { return tl::unexpected(file_->failed("files")); }
    all.text(1, tenant);
    all.text(2, purpose);
    all.text(3, after);
    all.integer(4, static_cast<std::int64_t>(limit));
    std::vector<FileRecord> found;
    int code = all.step();
    for (; code == SQLITE_ROW; code = all.step()) {
        found.push_back(file_of(all));
    }
    if (code != SQLITE_DONE) { return tl::unexpected(file_->failed("files")); }
    return found;
}

base::Result<std::optional<std::string>> BatchStore::content(const std::string& tenant, const std::string& id) {
    ContentPlace place;
    return content_piece(tenant, id, place, std::numeric_limits<std::size_t>::max());
}

base::Result<std::optional<std::string>> BatchStore::content_piece(const std::string& tenant, const std::string& id,
                                                                   ContentPlace& place, std::size_t bytes) {
    Statement get(file_->database(), "SELECT rowid, of_batch, is_error FROM files WHERE id=?1 AND tenant=?2");
    if (!get.is_ready()) { return tl::unexpected(file_->failed("files")); }
    get.text(1, id);
    get.text(2, tenant);
    const int code = get.step();
    if (code == SQLITE_DONE) { return std::nullopt; }
    if (code != SQLITE_ROW) { return tl::unexpected(file_->failed("files")); }
    const std::string of_batch = get.bytes_of(1);
    auto piece = of_batch.empty() ? bytes_of_file(get.integer_of(0), place, bytes)
                                  : lines_of_batch(of_batch, get.integer_of(2) != 0, place, bytes);
    if (!piece) { return base::pass_on(piece); }
    return std::optional(std::move(*piece));
}

/// A column's value would come into memory as a whole; a blob handle reads a part.
base::Result<std::string> BatchStore::bytes_of_file(std::int64_t row, ContentPlace& place, std::size_t bytes) {
    sqlite3_blob* blob = nullptr;
    const int opened = sqlite3_blob_open(file_->database(), "main", "files", "content", row, 0, &blob);
    const std::unique_ptr<sqlite3_blob, int (*)(sqlite3_blob*)> closes(blob, sqlite3_blob_close);
    if (opened != SQLITE_OK) { return tl::unexpected(file_->failed("files")); }
    const std::int64_t left = std::max<std::int64_t>(0, sqlite3_blob_bytes(blob) - place.next);
    std::string piece(std::min(bytes, static_cast<std::size_t>(left)), '\0');
    if (piece.empty()) { return piece; }
    const int read =
        sqlite3_blob_read(blob, piece.data(), static_cast<int>(piece.size()), static_cast<int>(place.next));
    if (read != SQLITE_OK) { return tl::unexpected(file_->failed("files")); }
    place.next += static_cast<std::int64_t>(piece.size());
    return piece;
}

base::Result<std::string> BatchStore::lines_of_batch(const std::string& batch, bool is_error, ContentPlace& place,
                                                     std::size_t bytes) {
    Statement lines(file_->database(),
                    "SELECT number, outcome FROM requests WHERE batch=?1 AND number>=?2 AND state=?3 ORDER BY number");
    if (!lines.is_ready()) { return tl::unexpected(file_->failed("requests")); }
    lines.text(1, batch);
    lines.integer(2, place.next);
    lines.integer(3, is_error ? kFailed : kAnswered);
    std::string piece;
    while (piece.size() < bytes) {
        const int code = lines.step();
        if (code == SQLITE_DONE) { break; }
        if (code != SQLITE_ROW) { return tl::unexpected(file_->failed("requests")); }
        place.next = lines.integer_of(0) + 1;
        piece += lines.bytes_of(1);
        piece += '\n';
    }
    return piece;
}

base::Result<bool> BatchStore::remove_file(const std::string& tenant, const std::string& id) {
    const auto there = file(tenant, id);
    if (!there) { return base::pass_on(there); }
    if (!*there) { return false; }
    const auto used = number("SELECT COUNT(*) FROM batches WHERE input_file=?1 AND is_over=0", id);
    if (!used) { return base::pass_on(used); }
    if (*used > 0) {
        return base::fail(ErrorCode::failed_precondition, "a batch that is not over reads the file: cancel it first");
    }
    const auto removed = in_transaction([&]() -> base::Result<void> {
        // The outcomes that an output file consists of go with it.
        for (const char* sql :
             {"UPDATE requests SET outcome=NULL WHERE batch=(SELECT of_batch FROM files WHERE id=?1) AND"
              " state=(SELECT 1+is_error FROM files WHERE id=?1)",
              "DELETE FROM files WHERE id=?1"}) {
            Statement change(file_->database(), sql);
            if (!change.is_ready()) { return tl::unexpected(file_->failed(sql)); }
            change.text(1, id);
            if (!change.run()) { return tl::unexpected(file_->failed(sql)); }
        }
        return {};
    });
    if (!removed) { return base::pass_on(removed); }
    return true;
}

base::Result<void> BatchStore::write_batch(const BatchRecord& batch) {
    Statement put(file_->database(),
                  "INSERT OR REPLACE INTO batches VALUES "
                  "(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15,?16,?17,?18,?19,?20,?21)");
    if (!put.is_ready()) { return tl::unexpected(file_->failed("batches")); }
    put.text(1, batch.id);
    put.text(2, batch.tenant);
    put.text(3, batch.key_id);
    put.text(4, batch.endpoint);
    put.text(5, batch.input_file);
    put.text(6, batch.window);
    put.text(7, batch.metadata);
    put.text(8, name_of(batch.status));
    int at = 9;
    for (const std::int64_t value :
         {std::int64_t{batch.is_over()}, batch.created_at, batch.expires_at, batch.in_progress_at, batch.finalizing_at,
          batch.ended_at, batch.cancelling_at, static_cast<std::int64_t>(batch.total),
          static_cast<std::int64_t>(batch.completed), static_cast<std::int64_t>(batch.failed)}) {
        put.integer(at++, value);
    }
    put.text(19, batch.output_file);
    put.text(20, batch.error_file);
    put.text(21, problems_json(batch.problems));
    if (!put.run()) { return tl::unexpected(file_->failed("batches")); }
    return {};
}

base::Result<void> BatchStore::add_batch(const BatchRecord& batch) {
    const auto open = number("SELECT COUNT(*) FROM batches WHERE tenant=?1 AND is_over=0", batch.tenant);
    if (!open) { return base::pass_on(open); }
    if (static_cast<std::size_t>(*open) >= bounds_.unfinished_max) {
        return base::fail(ErrorCode::resource_exhausted,
                          std::to_string(*open) +
                              " batches are not over yet, the most that are kept of a tenant "
                              "(batch.unfinished_max)");
    }
    return in_transaction([&] { return write_batch(batch); });
}

base::Result<std::vector<BatchRecord>> BatchStore::select_batches(const std::string& where,
                                                                  const std::vector<std::string>& texts,
                                                                  std::int64_t limit) {
    Statement all(file_->database(),
                  (std::string("SELECT ") + kColumns + " FROM batches WHERE " + where + " LIMIT ?9").c_str());
    if (!all.is_ready()) { return tl::unexpected(file_->failed("batches")); }
    for (std::size_t i = 0; i < texts.size(); ++i) {
        all.text(static_cast<int>(i) + 1, texts[i]);
    }
    all.integer(9, limit);
    std::vector<BatchRecord> found;
    int code = all.step();
    for (; code == SQLITE_ROW; code = all.step()) {
        found.push_back(batch_of(all));
    }
    if (code != SQLITE_DONE) { return tl::unexpected(file_->failed("batches")); }
    return found;
}

base::Result<std::optional<BatchRecord>> BatchStore::batch(const std::string& tenant, const std::string& id) {
    auto found = select_batches("tenant=?1 AND id=?2", {tenant, id}, 1);
    if (!found) { return base::pass_on(found); }
    if (found->empty()) { return std::nullopt; }
    return std::move(found->front());
}

base::Result<std::vector<BatchRecord>> BatchStore::batches(const std::string& tenant, const std::string& after,
                                                           std::size_t limit) {
    return select_batches(
        "tenant=?1 AND (?2='' OR (created_at, id) < (SELECT created_at, id FROM batches WHERE id=?2 AND tenant=?1))"
        " ORDER BY created_at DESC, id DESC",
        {tenant, after}, static_cast<std::int64_t>(limit));
}

base::Result<std::vector<BatchRecord>> BatchStore::unfinished() {
    return select_batches("is_over=0 ORDER BY created_at, id", {}, -1);
}

base::Result<void> BatchStore::update(const BatchRecord& batch, const std::vector<BatchLine>& lines) {
    return in_transaction([&]() -> base::Result<void> {
        if (auto written = write_batch(batch); !written) { return written; }
        Statement put(file_->database(), "INSERT OR IGNORE INTO requests VALUES (?1,?2,?3,?4,?5,0,NULL)");
        if (!put.is_ready()) { return tl::unexpected(file_->failed("requests")); }
        for (const BatchLine& line : lines) {
            put.text(1, batch.id);
            put.integer(2, line.number);
            put.text(3, line.custom_id);
            put.integer(4, static_cast<std::int64_t>(line.begin));
            put.integer(5, static_cast<std::int64_t>(line.bytes));
            if (!put.run()) { return tl::unexpected(file_->failed("requests")); }
        }
        return {};
    });
}

base::Result<std::vector<BatchRequest>> BatchStore::next(const std::string& batch, std::int64_t number,
                                                         std::size_t limit) {
    Statement all(file_->database(),
                  "SELECT number, custom_id, substr(files.content, begin + 1, requests.bytes) FROM requests"
                  " JOIN batches ON batches.id = requests.batch JOIN files ON files.id = batches.input_file"
                  " WHERE batch=?1 AND number>?2 AND state=0 ORDER BY number LIMIT ?3");
    if (!all.is_ready()) { return tl::unexpected(file_->failed("requests")); }
    all.text(1, batch);
    all.integer(2, number);
    all.integer(3, static_cast<std::int64_t>(limit));
    std::vector<BatchRequest> found;
    int code = all.step();
    for (; code == SQLITE_ROW; code = all.step()) {
        found.push_back({.number = all.integer_of(0), .custom_id = all.bytes_of(1), .line = all.bytes_of(2)});
    }
    if (code != SQLITE_DONE) { return tl::unexpected(file_->failed("requests")); }
    return found;
}

base::Result<void> BatchStore::add_outcomes(const std::string& batch, const std::vector<BatchOutcome>& outcomes) {
    return in_transaction([&]() -> base::Result<void> {
        Statement put(file_->database(),
                      "UPDATE requests SET state=?3, outcome=?4 WHERE batch=?1 AND number=?2 AND state=0");
        Statement count(file_->database(), "UPDATE batches SET completed=completed+?2, failed=failed+?3 WHERE id=?1");
        if (!put.is_ready() || !count.is_ready()) { return tl::unexpected(file_->failed("requests")); }
        std::int64_t answered = 0;
        std::int64_t wrong = 0;
        for (const BatchOutcome& one : outcomes) {
            put.text(1, batch);
            put.integer(2, one.number);
            put.integer(3, one.is_error ? kFailed : kAnswered);
            put.blob(4, one.line);
            if (!put.run()) { return tl::unexpected(file_->failed("requests")); }
            (one.is_error ? wrong : answered) += sqlite3_changes(file_->database());
        }
        count.text(1, batch);
        count.integer(2, answered);
        count.integer(3, wrong);
        if (!count.run()) { return tl::unexpected(file_->failed("batches")); }
        return {};
    });
}

base::Result<BatchRecord> BatchStore::finish(BatchRecord batch) {
    if (batch.status == BatchStatus::expired) {
        std::vector<BatchOutcome> unsent;
        Statement rest(file_->database(), "SELECT number, custom_id FROM requests WHERE batch=?1 AND state=0");
        if (!rest.is_ready()) { return tl::unexpected(file_->failed("requests")); }
        rest.text(1, batch.id);
        while (rest.step() == SQLITE_ROW) {
            const std::int64_t number = rest.integer_of(0);
            unsent.push_back(
                {.number = number,
                 .is_error = true,
                 .line = unsent_line(
                     "batch_req_" + batch.id.substr(batch.id.find('_') + 1) + "-" + std::to_string(number),
                     rest.bytes_of(1), "batch_expired", "the batch's window ended before this request was sent")});
        }
        if (auto added = add_outcomes(batch.id, unsent); !added) { return base::pass_on(added); }
    }
    const auto done = in_transaction([&]() -> base::Result<void> {
        for (const bool is_error : {false, true}) {
            std::string& id = is_error ? batch.error_file : batch.output_file;
            Statement sizes(file_->database(),
                            "SELECT COUNT(*), SUM(length(outcome) + 1) FROM requests WHERE batch=?1 AND state=?2");
            if (!sizes.is_ready()) { return tl::unexpected(file_->failed("requests")); }
            sizes.text(1, batch.id);
            sizes.integer(2, is_error ? kFailed : kAnswered);
            if (sizes.step() != SQLITE_ROW) { return tl::unexpected(file_->failed("requests")); }
            const std::int64_t count = sizes.integer_of(0);
            (is_error ? batch.failed : batch.completed) = static_cast<std::uint64_t>(count);
            if (count == 0) {
                id.clear();
                continue;
            }
            const FileRecord file{.id = id,
                                  .tenant = batch.tenant,
                                  .name = batch.id + (is_error ? "_error.jsonl" : "_output.jsonl"),
                                  .purpose = "batch_output",
                                  .created_at = batch.ended_at,
                                  .bytes = static_cast<std::uint64_t>(sizes.integer_of(1))};
            if (auto made = insert_file(file, {}, batch.id, is_error); !made) { return made; }
        }
        return write_batch(batch);
    });
    if (!done) { return base::pass_on(done); }
    return batch;
}

}  // namespace gateway
