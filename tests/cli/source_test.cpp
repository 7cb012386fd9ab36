#include "cli/model/source.h"

#include "tests/support/catch.h"

using namespace cli::model;

TEST_CASE("a source is read as it is written", "[cli][model]") {
    CHECK(std::get<NamedSource>(parse_source("smollm2-135m-instruct").value()).name == "smollm2-135m-instruct");
    CHECK(std::get<HubSource>(parse_source("hf:Org/Some.Repo-1").value()) == HubSource{"Org/Some.Repo-1", "main", ""});
    CHECK(std::get<HubSource>(parse_source("hf:Org/Repo@v1.0/sub/model.Q4_0.gguf").value()) ==
          HubSource{"Org/Repo", "v1.0", "sub/model.Q4_0.gguf"});
    CHECK(std::get<UrlSource>(parse_source("https://host/a/b.gguf").value()).url == "https://host/a/b.gguf");
    CHECK(std::get<PackageSource>(parse_source("pip:some-package==1.2").value()).parts ==
          std::vector<PackagePart>{{"some-package", "1.2", "", ""}});
    CHECK(std::get<PackageSource>(parse_source("pip:a==1/x/m.zip!/in/m.gguf+b==2.0/y.bin").value()).parts ==
          std::vector<PackagePart>{{"a", "1", "x/m.zip", "in/m.gguf"}, {"b", "2.0", "y.bin", ""}});
}

TEST_CASE("a source that is none is refused, and says what there is", "[cli][model]") {
    for (const char* text : {"",
                             ".",
                             "-x",
                             "a b",
                             "../x",
                             "hf:",
                             "hf:repo",
                             "hf:/repo",
                             "hf:org/",
                             "hf:org/repo@",
                             "hf:org/repo@a b",
                             "hf:org/repo/../../etc/passwd",
                             "hf:org/repo//x",
                             "hf:org/-repo",
                             "hf:-org/repo",
                             "pip:x",
                             "pip:==1",
                             "pip:-r==1",
                             "pip:x==",
                             "pip:x==1 --index-url",
                             "pip:x==1+y==2",
                             "pip:x==1/a+y==2",
                             "pip:x==1/../a",
                             "pip:x==1/a!/../b",
                             "pip:x==1/.hidden"}) {
        CAPTURE(text);
        const auto source = parse_source(text);
        REQUIRE_FALSE(source);
        CHECK(source.error().code == base::ErrorCode::invalid_argument);
    }
    CHECK_FALSE(parse_source(std::string(5000, 'x')));
}

TEST_CASE("what is written of a source can be read again", "[cli][model]") {
    for (const char* text : {"name", "hf:org/repo@main", "hf:org/repo@abc/x.gguf", "pip:x==1",
                             "pip:x==1/a.zip!/b+y==2/c", "https://host/x?y=1"}) {
        CHECK(format_source(parse_source(text).value()) == text);
    }
}

TEST_CASE("a model is named after its source where nobody names it", "[cli][model]") {
    const auto name = [](const char* text) { return default_name(parse_source(text).value()); };
    CHECK(name("smollm2") == "smollm2");
    CHECK(name("hf:Org/Some-Repo") == "some-repo");
    CHECK(name("hf:Org/Repo/sub/Model.Q4_0.gguf") == "model.q4_0");
    CHECK(name("hf:Org/Repo/Model-00001-of-00003.gguf") == "model");
    CHECK(name("https://host/x/Model.gguf?download=true") == "model");
    CHECK(name("pip:some-package==1") == "some-package");
    CHECK(name("pip:some-package==1/part01.bin+b==1/part02.bin") == "some-package");
    CHECK(name("pip:some-package==1/m/Model.gguf") == "model");
}

TEST_CASE("a file of a model stays inside its folder", "[cli][model]") {
    for (const char* good : {"a", "a/b.json", "1_Pooling/config.json", "Model Name.gguf"}) {
        CHECK(check_inner_path(good));
    }
    for (const std::string bad :
         {"", "/a", "a/", "a//b", "..", "a/../b", ".git/config", "a/.b", "a\\b", "c:x", "a\nb"}) {
        CAPTURE(bad);
        CHECK_FALSE(check_inner_path(bad));
    }
    CHECK_FALSE(check_inner_path(std::string(256, 'a')));
    CHECK_FALSE(check_inner_path("1/2/3/4/5/6/7/8/9"));
    CHECK_FALSE(check_inner_path(std::string_view("a\0b", 3)));
}

TEST_CASE("a name is a folder's name and no more", "[cli][model]") {
    CHECK(check_name("a.b_c-1"));
    for (const std::string bad : {"", ".", "..", ".x", "a/b", "a b", "-a"}) {
        CHECK_FALSE(check_name(bad));
    }
    CHECK_FALSE(check_name(std::string(97, 'a')));
}
