// What tests of stores share: a folder for the file, and a process that is killed while it writes.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "caching/store/sqlite_store.h"
#include "tests/support/catch.h"

namespace store_test {

/// A folder that goes with the test.
struct Folder {
    Folder() {
        char name[] = "/tmp/sluice-store-XXXXXX";
        REQUIRE(mkdtemp(name) != nullptr);
        path = name;
    }
    ~Folder() { std::filesystem::remove_all(path); }
    std::string file(const std::string& name = "answers.db") const { return (path / name).string(); }
    std::filesystem::path path;
};

/// A process of its own applies batch after batch to the store of `file`, until it is killed; the first one is there
/// then. `changes_of` is asked in that process.
inline void kill_while_writing(
    const std::string& file, const std::function<std::vector<caching::StoreChange>(std::uint64_t batch)>& changes_of) {
    int wrote[2] = {};
    REQUIRE(pipe(wrote) == 0);
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        close(wrote[0]);
        auto store = caching::SqliteStore::open(file);
        if (!store) { _exit(1); }
        for (std::uint64_t batch = 0;; ++batch) {
            if (!(*store)->apply(changes_of(batch))) { _exit(1); }
            if (batch == 0 && write(wrote[1], "!", 1) != 1) { _exit(1); }
        }
    }
    close(wrote[1]);
    char first = 0;
    REQUIRE(read(wrote[0], &first, 1) == 1);
    close(wrote[0]);
    kill(child, SIGKILL);
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));
}

}  // namespace store_test
