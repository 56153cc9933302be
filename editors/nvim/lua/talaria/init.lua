--- Talaria in Neovim: server processes, commands, keys.
local ghost = require("talaria.ghost")
local server = require("talaria.server")
local steps = require("talaria.steps")

local api = vim.api
local M = { accept = ghost.accept, cycle = ghost.cycle, dismiss = ghost.dismiss }
M.suggest = ghost.suggest

local LATEST = vim.fn.has("nvim-0.12") == 1
local CRASHES = 5 -- in a row, after which the server is not restarted
local CALM = 180 -- seconds of running that reset the count of crashes
local BUSY = 150 -- milliseconds before the state "busy" is reported

---Keys in insert mode: the key, its description for `:map`, the function, its argument.
---@type table<string, [string, string, (fun(argument: any): boolean?), any]>
local KEYS = {
  accept = { "<Tab>", "accept the suggestion", ghost.accept },
  accept_word = { "<M-Right>", "accept its next word", ghost.accept, "word" },
  accept_line = { "<M-Down>", "accept its next line", ghost.accept, "line" },
  next = { "<M-]>", "next suggestion", ghost.cycle, 1 },
  previous = { "<M-[>", "previous suggestion", ghost.cycle, -1 },
  dismiss = { "<C-]>", "dismiss the suggestion", ghost.dismiss },
  suggest = { "<M-\\>", "ask for suggestions", ghost.suggest },
}

---The server's commands by their names in `:Talaria`: with a place, and with the document only.
local AT_A_PLACE = { fill = "fillFunction", here = "fillHere", rewrite = "rewrite" }
local AFTERWARDS = { next = "nextCandidate", trace = "showTrace" }

---@class talaria.Config
---@field cmd? string[] the command that starts the server; default: the first one found
---@field options? table<string, any> of the server; `talaria lsp --help` lists them
---@field keys? table<string, string|false>|false by function; `false` maps none
---@field native? boolean whether `vim.lsp.inline_completion` draws, if Neovim has it
---@field root_markers? string[]

---@type talaria.Config
M.config = {
  options = { status = true, languages = { "python" } },
  keys = vim.tbl_map(function(key) return key[1] end, KEYS),
  native = true,
  root_markers = { "pyproject.toml", "setup.py", ".git" },
}

local KINDS =
  { cmd = "table", options = "table", keys = "table", native = "boolean", root_markers = "table" }

---The large model that the server has offered to fetch: its question and the answers.
local offered ---@type lsp.ShowMessageRequestParams?

local states = {} ---@type table<integer, string> of each client
local greys = {} ---@type table<string, integer?> the colours that highlights lacked, by their names
local announced = {} ---@type table<integer, string> the states that status lines know
---By project root ("" for none): crashes in a row, start time of the server.
local lives = vim.defaulttable(function() return { crashes = 0, began = 0 } end)

---@param message string
---@param level? integer
local function tell(message, level)
  -- Keep messages short: one longer than a line must be confirmed.
  vim.notify("Talaria: " .. message, level or vim.log.levels.INFO)
end

---Whether Neovim's own inline completion draws ghost text.
---@return boolean
function M.native() return M.config.native and vim.lsp.inline_completion ~= nil end

---The state in this buffer, for a status line.
---@return string
function M.status()
  local buf = api.nvim_get_current_buf()
  local client = server.clients(buf)[1]
  local state = client and announced[client.id] or "loading"
  return client and "Talaria: " .. (ghost.is_off(buf) and "off" or state) or ""
end

-- Commands

---The cursor, or the lines or selection given to a command.
---@param encoding "utf-8"|"utf-16"|"utf-32"
---@param given vim.api.keyset.create_user_command.command_args
local function place(encoding, given)
  local function at(row, col)
    return { line = row - 1, character = vim.lsp.util.character_offset(0, row - 1, col, encoding) }
  end
  local uri, row, col = vim.uri_from_bufnr(0), unpack(api.nvim_win_get_cursor(0))
  if given.range == 0 then return { uri = uri, position = at(row, col) } end
  local from, to = api.nvim_buf_get_mark(0, "<"), api.nvim_buf_get_mark(0, ">")
  if vim.fn.visualmode() == "V" or from[1] ~= given.line1 or to[1] ~= given.line2 then
    from, to = { given.line1, 0 }, { given.line2, vim.v.maxcol }
  end
  local line = vim.fn.getline(to[1])
  local last = vim.o.selection == "exclusive" and "" or vim.fn.strpart(line, to[2], 1, true)
  local finish = at(to[1], math.min(#line, to[2] + #last))
  return { uri = uri, range = { start = at(from[1], from[2]), ["end"] = finish } }
end

---Toggle suggestions; servers started later are told too.
---@param language? string nil means all
function M.toggle(language)
  local key = language or ""
  ghost.off[key] = not ghost.off[key] or nil
  for _, client in ipairs(server.clients()) do
    server.execute(client, "toggle", { key })
  end
  ghost.clear()
  local where = language and " in " .. language or ""
  tell(("suggestions%s are %s"):format(where, ghost.off[key] and "off" or "on"))
end

---Tell which model answers, and why it is not the large one.
---@param client vim.lsp.Client
local function tell_status(client)
  server.execute(client, "status", {}, function(err, result)
    if err then return tell(err.message, vim.log.levels.ERROR) end
    local engine = result.engine
    local said = { ("%s, %d requests"):format(engine.state, engine.requests or 0) }
    local answers, choice = (engine.model or "") .. " answers", engine.choice or ""
    if engine.model and not choice:find(answers, 1, true) then said[#said + 1] = answers end
    said[#said + 1] = engine.choice
    tell(table.concat(said, "; "))
  end)
end

---Answer the server's offer to fetch the large model, or fetch it unasked.
---@param client vim.lsp.Client
local function fetch(client)
  local function say(answer)
    if answer then server.execute(client, "fetch", { answer }) end
  end
  if not offered then return say("Fetch") end
  local answers = vim.tbl_map(function(action) return action.title end, offered.actions or {})
  vim.ui.select(answers, { prompt = offered.message }, say)
end

---@param given vim.api.keyset.create_user_command.command_args
local function command(given)
  local name, argument = given.fargs[1], given.fargs[2]
  local client = server.clients(api.nvim_get_current_buf())[1]
  local wanted = AT_A_PLACE[name] or AFTERWARDS[name]
  if name == "toggle" or name == "restart" then
    M[name](argument)
  elseif not wanted and name ~= "status" and name ~= "fetch" then
    tell("unknown command: " .. name, vim.log.levels.ERROR)
  elseif not client then
    tell("no server in this buffer; see :checkhealth talaria", vim.log.levels.WARN)
  elseif name == "status" then
    tell_status(client)
  elseif name == "fetch" then
    fetch(client)
  else
    local where = AT_A_PLACE[name] and place(client.offset_encoding, given)
    server.execute(client, wanted, { where or vim.uri_from_bufnr(0) }, function(err)
      if err then tell(err.message, vim.log.levels.ERROR) end
    end)
  end
end

---@param start string
---@param line string
local function complete(start, line)
  local words = { "fetch", "fill", "here", "next", "restart", "rewrite", "status", "toggle", "trace" }
  if line:match("toggle%s") then words = M.config.options.languages end
  return vim.tbl_filter(function(word) return vim.startswith(word, start) end, words)
end

-- Server processes

---Find a buffer's project root and continue if there is a server. Scheduled until the file is
---open, since the user may be asked about the program and want to view it.
---@param buf integer
---@param go_on fun(root?: string)
local function with_root(buf, go_on)
  vim.schedule(function()
    if not api.nvim_buf_is_valid(buf) then return end
    local root = vim.fs.root(buf, M.config.root_markers)
    if lives[root or ""].crashes >= CRASHES then return end
    local cmd, _, untrusted = server.find(M.config.cmd, root, true)
    if cmd then return go_on(root) end
    if untrusted then return end -- Neovim has already said so
    vim.notify_once("Talaria: no server found; see :checkhealth talaria", vim.log.levels.WARN)
  end)
end

---Tell status lines a client's state if it changed.
---@param id integer
local function announce(id)
  if announced[id] == states[id] then return end
  announced[id] = states[id]
  api.nvim_exec_autocmds("User", { pattern = "TalariaStatus", modeline = false })
  vim.cmd.redrawstatus({ bang = true })
end

---The configuration for `vim.lsp.config` and `vim.lsp.start`.
---@return vim.lsp.Config
local function configuration()
  local capabilities = vim.lsp.protocol.make_client_capabilities()
  -- Before 0.12 only this plugin, not Neovim, supports inline completion.
  capabilities.textDocument.inlineCompletion = { dynamicRegistration = false }
  local config = {
    name = "talaria",
    filetypes = M.config.options.languages,
    init_options = M.config.options,
    root_dir = with_root,
    capabilities = capabilities,
    handlers = {
      ["talaria/step"] = steps.draw,
      ["talaria/status"] = function(_, params, context)
        local id = context.client_id
        states[id] = params.state
        if params.state ~= "busy" then return announce(id) end
        vim.defer_fn(function() announce(id) end, BUSY)
      end,
      -- Neovim's own is a prompt, which would take keys that are meant for the text.
      ["window/showMessageRequest"] = function(_, params)
        offered = params
        tell("a better model can be fetched, see :Talaria fetch")
        return vim.NIL
      end,
      ["window/showMessage"] = function(_, params)
        vim.notify(params.message, 5 - params.type) -- the protocol numbers levels in reverse
      end,
    },
    on_init = function(client)
      for language in pairs(ghost.off) do
        server.execute(client, "toggle", { language })
      end
      if M.native() then ghost.lead_native(client) end
    end,
    on_attach = function(client, buf) ghost.attach(client, buf, M.native()) end,
  }
  -- Before 0.12 `cmd` does not get the resolved configuration.
  function config.cmd(dispatchers, now)
    local root = (now or config).root_dir
    lives[root or ""].began = vim.uv.now()
    local on_exit = dispatchers.on_exit
    dispatchers.on_exit = function(code, signal)
      vim.schedule(function() M.ended(code, signal, root) end)
      -- Neovim's own message about a crash is longer than a line.
      on_exit(0, 0)
    end
    local cmd = assert(server.find(M.config.cmd, root))
    return vim.lsp.rpc.start(cmd, dispatchers)
  end
  return config
end

---Start the server for all buffers that need one.
local function start()
  if LATEST then return vim.lsp.enable("talaria") end
  for _, buf in ipairs(api.nvim_list_bufs()) do
    local served = vim.tbl_contains(M.config.options.languages, vim.bo[buf].filetype)
    if served and vim.bo[buf].buftype == "" and api.nvim_buf_is_loaded(buf) then
      with_root(buf, function(root)
        local config = configuration()
        config.root_dir = root
        vim.lsp.start(config, {
          bufnr = buf,
          -- By default 0.10 starts another one for each file outside a project.
          reuse_client = function(it) return it.name == config.name and it.root_dir == root end,
        })
      end)
    end
  end
end

---A server ended: unless that was intended, restart it after a growing delay.
---@param code integer
---@param signal integer
---@param root? string of its project
function M.ended(code, signal, root)
  -- Neovim sends signal 15 to a server that takes too long to exit.
  if vim.v.exiting ~= vim.NIL or signal == 15 or (code == 0 and signal == 0) then return end
  local life = lives[root or ""]
  life.crashes = vim.uv.now() - life.began > 1000 * CALM and 1 or life.crashes + 1
  local how = signal > 0 and "signal " .. signal or "exit code " .. code
  if life.crashes >= CRASHES then
    local times = ("the server ended %d times"):format(life.crashes)
    return tell(times .. "; see :checkhealth talaria", vim.log.levels.ERROR)
  end
  local seconds = 2 ^ (life.crashes - 1)
  tell(("the server ended (%s); it starts again in %d s"):format(how, seconds))
  vim.defer_fn(start, 1000 * seconds)
end

---Restart the servers; the user is asked again about programs that were not trusted.
function M.restart()
  for _, life in pairs(lives) do
    life.crashes = 0
  end
  server.trusted = {}
  for _, client in ipairs(server.clients()) do
    server.call(client, "stop", true)
  end
  vim.defer_fn(start, 500)
end

-- Setup

---Map the keys. A key whose action does nothing does what it did before, by a <Plug> mapping.
local function set_keys()
  for name, key in pairs(M.config.keys or {}) do
    if not KEYS[name] then
      tell(("unknown key %s; see :help talaria-keys"):format(name), vim.log.levels.WARN)
    elseif key then
      local _, what, act, argument = unpack(KEYS[name], 1, 4)
      local before, plug = vim.fn.maparg(key, "i", false, true), "<Plug>(talaria-" .. name .. ")"
      if not before.lhs then
        vim.keymap.set("i", plug, key)
      elseif not vim.startswith(before.desc or "", "Talaria") then
        before.lhs, before.lhsraw, before.lhsrawalt, before.buffer = plug, vim.keycode(plug), nil, 0
        vim.fn.mapset("i", false, before)
      end
      vim.keymap.set("i", key, function()
        if act(argument) == false then api.nvim_feedkeys(vim.keycode(plug), "im", false) end
      end, { desc = "Talaria: " .. what })
    end
  end
end

---Where 'termguicolors' is off, Neovim's own colours have no grey: supply one for what should be.
---A colour scheme's grey, or the user's, stays.
local function set_greys()
  local colours = 256
  for _, ui in ipairs(api.nvim_list_uis()) do
    colours = math.min(colours, ui.rgb and 256 or ui.term_colors or 256)
  end
  -- In the middle of 256, which dark and light backgrounds bear; bright black; of eight, white.
  local grey = colours >= 256 and 244 or colours >= 16 and 8 or 7
  for _, group in ipairs({ "TalariaGhost", "TalariaMask", "TalariaStep" }) do
    local given = api.nvim_get_hl(0, { name = group, link = true })
    -- Neovim draws ghost text with the group that ours leads to.
    local name = group == "TalariaGhost" and given.link == "ComplHint" and given.link or group
    local drawn = api.nvim_get_hl(0, { name = name, link = false })
    if drawn.ctermfg == nil or drawn.ctermfg == greys[name] then
      greys[name], drawn.ctermfg = grey, grey
      ---@cast drawn vim.api.keyset.highlight
      api.nvim_set_hl(0, name, drawn)
      -- Of eight colours, white is the text's own; dim, which Neovim 0.12 knows, it is grey.
      drawn.cterm = vim.tbl_extend("force", drawn.cterm or {}, { dim = true })
      if colours < 16 then pcall(api.nvim_set_hl, 0, name, drawn) end
    end
  end
end

---Set up the plugin, which does nothing before.
---@param config? talaria.Config
function M.setup(config)
  config = vim.tbl_extend("force", {}, config or {}) -- leaves the caller's table unchanged
  for name, value in pairs(config) do
    if type(value) ~= KINDS[name] and not (name == "keys" and value == false) then
      local how = KINDS[name] and "must be a " .. KINDS[name] or "unknown option"
      tell(("%s: %s; see :help talaria-setup"):format(name, how), vim.log.levels.WARN)
      config[name] = nil
    end
  end
  M.config = vim.tbl_deep_extend("force", M.config, config)
  vim.cmd("highlight default link TalariaGhost " .. (LATEST and "ComplHint" or "Comment"))
  vim.cmd("highlight default link TalariaStep Comment")
  vim.cmd("highlight default link TalariaFresh String")
  vim.cmd("highlight default link TalariaMask NonText")
  local colours = api.nvim_create_augroup("talaria.colours", {})
  -- A terminal's number of colours is known once it is attached.
  api.nvim_create_autocmd({ "ColorScheme", "UIEnter" }, { group = colours, callback = set_greys })
  set_greys()
  set_keys()
  api.nvim_create_user_command("Talaria", command, {
    nargs = "+",
    range = true,
    complete = complete,
    desc = "Fill in code; :help talaria-commands",
  })
  if LATEST then
    vim.lsp.config("talaria", configuration())
  else
    local group = api.nvim_create_augroup("talaria", {})
    api.nvim_create_autocmd("FileType", { group = group, callback = start })
  end
  start()
end

return M
