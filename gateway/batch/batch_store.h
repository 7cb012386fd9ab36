#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "caching/store/sqlite_file.h"
#include "gateway/batch/batch_records.h"

namespace gateway {

/// Files of clients, batches, and what became of each of their requests, in one SQLite file (write-ahead log): what a
/// call has changed is in it whole or not at all, also after a kill. One thread at a time. Errors are unavailable or
/// data_loss with SQLite's words, unless said otherwise.
class BatchStore {
public:
    struct Bounds {
        std::uint64_t bytes_max;
        std::size_t files_max;
        std::size_t unfinished_max;  // batches of a tenant
    };
    /// Opens or makes the file, readable by its owner only. Error: also data_loss for a file that is none of ours.
    static base::Result<std::unique_ptr<BatchStore>> open(const std::string& path, Bounds bounds);

    // Files. A tenant sees its own only.
    /// Error: resource_exhausted (bytes, files).
    base::Result<void> add_file(const FileRecord& file, std::string_view content);
    base::Result<std::optional<FileRecord>> file(const std::string& tenant, const std::string& id);
    /// The newest first, of `purpose` (empty: any), from behind the file `after` (empty: from the newest).
    base::Result<std::vector<FileRecord>> files(const std::string& tenant, const std::string& purpose,
                                                const std::string& after, std::size_t limit);
    /// Nothing where there is no such file.
    base::Result<std::optional<std::string>> content(const std::string& tenant, const std::string& id);
    /// Where reading of a content in pieces stands; as it is made, at the beginning.
    struct ContentPlace {
        std::int64_t next = 0;  // byte of a client's file; number of the next request of a batch
    };
    /// The next piece of content(), from `place` on, which moves behind it: of a client's file at most `bytes`, of what
    /// a batch has written whole lines, as many as begin within `bytes`. No bytes: the end.
    base::Result<std::optional<std::string>> content_piece(const std::string& tenant, const std::string& id,
                                                           ContentPlace& place, std::size_t bytes);
    /// False where there is no such file. Error: failed_precondition for the input of a batch that is not over.
    base::Result<bool> remove_file(const std::string& tenant, const std::string& id);

    // Batches.
    /// Error: resource_exhausted (unfinished ones of the tenant).
    base::Result<void> add_batch(const BatchRecord& batch);
    base::Result<std::optional<BatchRecord>> batch(const std::string& tenant, const std::string& id);
    base::Result<std::vector<BatchRecord>> batches(const std::string& tenant, const std::string& after,
                                                   std::size_t limit);
    /// Of all tenants, those that are not over, the oldest first.
    base::Result<std::vector<BatchRecord>> unfinished();
    /// Status, times and problems as in `batch`; its requests, if any, are added.
    base::Result<void> update(const BatchRecord& batch, const std::vector<BatchLine>& lines = {});
    /// The next requests behind `number` that have no outcome yet.
    base::Result<std::vector<BatchRequest>> next(const std::string& batch, std::int64_t number, std::size_t limit);
    /// An outcome that is there already stays as it is.
    base::Result<void> add_outcomes(const std::string& batch, const std::vector<BatchOutcome>& outcomes);
    /// The batch is over, with the status, time and names of files that `batch` has; a file that would be empty is not
    /// made, and its name removed. If it has expired, each request without an outcome gets one that says so. Gives the
    /// batch as it is then.
    base::Result<BatchRecord> finish(BatchRecord batch);

private:
    BatchStore(std::unique_ptr<caching::SqliteFile> file, Bounds bounds) : file_(std::move(file)), bounds_(bounds) {}
    base::Result<std::int64_t> number(const char* sql, const std::string& text = {});
    template <class Work>
    base::Result<void> in_transaction(Work work);
    base::Result<void> insert_file(const FileRecord& file, std::string_view content, const std::string& of_batch,
                                   bool is_error);
    base::Result<std::string> bytes_of_file(std::int64_t row, ContentPlace& place, std::size_t bytes);
    base::Result<std::string> lines_of_batch(const std::string& batch, bool is_error, ContentPlace& place,
                                             std::size_t bytes);
    base::Result<std::vector<BatchRecord>> select_batches(const std::string& where,
                                                          const std::vector<std::string>& texts, std::int64_t limit);
    base::Result<void> write_batch(const BatchRecord& batch);

    std::unique_ptr<caching::SqliteFile> file_;
    Bounds bounds_;
};

}  // namespace gateway
