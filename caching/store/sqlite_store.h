#pragma once

#include <memory>
#include <string>

#include "caching/store/sqlite_file.h"
#include "caching/store/store.h"

namespace caching {

/// Answers in one SQLite file (write-ahead log): a batch of changes is in it whole or not at all, also after a kill.
class SqliteStore final : public Store {
public:
    /// Opens or makes the file, readable by its owner only. Error: unavailable with SQLite's words, data_loss for a
    /// file that is none of ours.
    static base::Result<std::unique_ptr<SqliteStore>> open(const std::string& path);

    base::Result<base::HashKey> hash_key() override;
    base::Result<void> load(const std::function<bool(SavedAnswer)>& visit) override;
    base::Result<void> load_questions(const std::function<bool(SavedQuestion)>& visit) override;
    base::Result<void> load_examples(const std::function<bool(SavedExample)>& visit) override;
    base::Result<std::string> learning() override;
    base::Result<std::string> example_learning() override;
    base::Result<void> apply(const std::vector<StoreChange>& changes) override;

private:
    explicit SqliteStore(std::string path) : path_(std::move(path)) {}
    base::Result<void> connect();
    base::Result<std::string> bytes_by(const char* query);
    base::Result<void> write(const std::vector<StoreChange>& changes);

    std::string path_;
    std::unique_ptr<SqliteFile> file_;  // null: lost; apply() tries to open it again
};

}  // namespace caching
