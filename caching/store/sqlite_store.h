#pragma once

#include <memory>
#include <string>

#include "caching/store/store.h"

struct sqlite3;

namespace caching {

/// Answers in one SQLite file (write-ahead log): a batch of changes is in it whole or not at all, also after a kill.
class SqliteStore final : public Store {
public:
    /// Opens or makes the file, readable by its owner only. Error: unavailable with SQLite's words, data_loss for a
    /// file that is none of ours.
    static base::Result<std::unique_ptr<SqliteStore>> open(const std::string& path);
    ~SqliteStore() override;

    base::Result<base::HashKey> hash_key() override;
    base::Result<void> load(const std::function<bool(SavedAnswer)>& visit) override;
    base::Result<void> load_questions(const std::function<bool(SavedQuestion)>& visit) override;
    base::Result<std::string> learning() override;
    base::Result<void> apply(const std::vector<StoreChange>& changes) override;

private:
    explicit SqliteStore(std::string path) : path_(std::move(path)) {}
    base::Result<void> connect();
    base::Result<void> run(const char* sql);
    base::Result<void> write(const std::vector<StoreChange>& changes);
    void disconnect();

    std::string path_;
    sqlite3* database_ = nullptr;  // null: lost; apply() tries to open it again
};

}  // namespace caching
