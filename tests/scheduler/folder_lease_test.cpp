// The lease of one machine, in a folder of the test's.
#include "scheduler/folder_lease.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "tests/support/catch.h"

using scheduler::FolderLease;
using scheduler::LeaderTerm;

namespace {

struct Folder {
    Folder() {
        std::string name = (std::filesystem::temp_directory_path() / "sluice-lease-XXXXXX").string();
        REQUIRE(mkdtemp(name.data()) != nullptr);
        path = name;
    }
    ~Folder() { std::filesystem::remove_all(path); }
    std::string path;
};

std::unique_ptr<FolderLease> open(const Folder& folder) {
    auto lease = FolderLease::open(folder.path);
    if (!lease) { FAIL(lease.error().message); }
    return std::move(*lease);
}

LeaderTerm term_after(const LeaderTerm& seen, std::uint64_t epoch, const std::string& holder = "127.0.0.1:1") {
    LeaderTerm term;
    term.serial = seen.serial + 1;
    term.epoch = epoch;
    term.holder = holder;
    return term;
}

}  // namespace

TEST_CASE("a term is seen by the others as its leader tells it, until it is resigned", "[scheduler][lease]") {
    const Folder folder;
    const auto a = open(folder);
    const auto b = open(folder);
    const LeaderTerm nobody = *a->look();
    REQUIRE(nobody == LeaderTerm());
    LeaderTerm first = term_after(nobody, 70);
    REQUIRE(a->begin(nobody, first).value());
    REQUIRE(*b->look() == first);
    REQUIRE_FALSE(b->begin(nobody, term_after(nobody, 71)).value());  // somebody was quicker
    first.beat = 9;
    first.workers = 12;
    first.epoch = 75;
    REQUIRE(a->renew(first).value());
    REQUIRE(*b->look() == first);
    a->resign();
    const LeaderTerm over = *b->look();
    REQUIRE(over.over);
    REQUIRE(over.workers == 12u);
    REQUIRE(over.epoch == 75u);
    REQUIRE(b->begin(over, term_after(over, 80)).value());
    REQUIRE_FALSE(a->renew(first).value());
    REQUIRE(a->look()->epoch == 80u);
}

TEST_CASE("whoever renewed since it was looked at keeps its term, and who has lost it hears so", "[scheduler][lease]") {
    const Folder folder;
    const auto a = open(folder);
    const auto b = open(folder);
    LeaderTerm first = term_after({}, 70);
    REQUIRE(a->begin({}, first).value());
    const LeaderTerm seen = *b->look();
    ++first.beat;
    REQUIRE(a->renew(first).value());
    REQUIRE_FALSE(b->begin(seen, term_after(seen, 71)).value());
    REQUIRE(a->renew(first).value());
    const LeaderTerm silent = *b->look();  // from here on a is stopped
    REQUIRE(b->begin(silent, term_after(silent, 71)).value());
    REQUIRE_FALSE(a->renew(first).value());
    REQUIRE_FALSE(a->renew(first).value());
    LeaderTerm second = term_after(silent, 71);
    REQUIRE(b->renew(second).value());
    REQUIRE(a->look()->epoch == 71u);
}

TEST_CASE("of many that begin after the same look one has the term, and old terms are removed", "[scheduler][lease]") {
    const Folder folder;
    std::vector<std::unique_ptr<FolderLease>> all;
    for (int i = 0; i < 8; ++i) {
        all.push_back(open(folder));
    }
    for (std::uint64_t round = 1; round <= 20; ++round) {
        for (const auto& one : all) {
            one->resign();
        }
        const LeaderTerm seen = *all[0]->look();
        int begun = 0;
        for (const auto& one : all) {
            begun += one->begin(seen, term_after(seen, round)).value() ? 1 : 0;
        }
        REQUIRE(begun == 1);
        REQUIRE(all[0]->look()->serial == round);
    }
    std::size_t files = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder.path)) {
        ++files;
    }
    REQUIRE(files <= 3u);
}

TEST_CASE("a term whose process was killed is over, one whose process is stopped is not", "[scheduler][lease]") {
    const Folder folder;
    const auto watcher = open(folder);
    int ready[2];
    REQUIRE(pipe(ready) == 0);
    const pid_t child = fork();
    if (child == 0) {
        auto lease = FolderLease::open(folder.path);
        const bool begun = lease && (*lease)->begin({}, term_after({}, 5)).value_or(false);
        const char byte = begun ? 'y' : 'n';
        if (write(ready[1], &byte, 1) == 1) {
            while (true) {
                pause();
            }
        }
        _exit(1);
    }
    REQUIRE(child > 0);
    char byte = 0;
    REQUIRE(read(ready[0], &byte, 1) == 1);
    REQUIRE(byte == 'y');
    REQUIRE_FALSE(watcher->look()->over);
    REQUIRE(kill(child, SIGSTOP) == 0);
    int status = 0;
    REQUIRE(waitpid(child, &status, WUNTRACED) == child);
    REQUIRE_FALSE(watcher->look()->over);
    REQUIRE(kill(child, SIGKILL) == 0);
    REQUIRE(waitpid(child, &status, 0) == child);
    REQUIRE(watcher->look()->over);
    close(ready[0]);
    close(ready[1]);
}

TEST_CASE("a record that a power cut left unwritten is a term that is over, with a higher serial after it",
          "[scheduler][lease]") {
    const Folder folder;
    const auto lease = open(folder);
    std::ofstream(folder.path + "/term-00000000000000000041") << std::string(512, '\0');
    std::ofstream(folder.path + "/notes.txt") << "not a term";
    const LeaderTerm torn = *lease->look();
    REQUIRE(torn.serial == 41u);
    REQUIRE(torn.over);
    REQUIRE(torn.epoch == 0u);
    REQUIRE(lease->begin(torn, term_after(torn, 100)).value());
    REQUIRE(lease->look()->serial == 42u);
}

TEST_CASE("a folder that is none, or that others may change, is refused", "[scheduler][lease]") {
    const Folder folder;
    const std::string file = folder.path + "/file";
    std::ofstream(file) << "x";
    REQUIRE(FolderLease::open(file).error().code == base::ErrorCode::invalid_argument);
    REQUIRE(FolderLease::open(folder.path + "/no/such").error().code == base::ErrorCode::unavailable);
    REQUIRE(chmod(folder.path.c_str(), 0777) == 0);
    REQUIRE(FolderLease::open(folder.path).error().code == base::ErrorCode::permission_denied);
    REQUIRE(chmod(folder.path.c_str(), 0700) == 0);
    const auto made = FolderLease::open(folder.path + "/made/");
    REQUIRE(made.has_value());
    REQUIRE(std::filesystem::is_directory(folder.path + "/made"));
}
